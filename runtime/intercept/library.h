// SPDX-License-Identifier: Apache-2.0
//
// The MPI of this process. The preload library is linked to none: it may be loaded into programs without
// MPI (a shell that starts the job), and MPI may come later, by dlopen. So everything of MPI is found by
// name, at first use.
//
// Each build of the library is for one family of MPIs, whose handles have other sizes. In a process with
// the other family only, its wrappers would cut handles to pieces: the process ends with a message instead.
#ifndef TERSE_RUNTIME_INTERCEPT_LIBRARY_H_
#define TERSE_RUNTIME_INTERCEPT_LIBRARY_H_

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "runtime/intercept/signature.h"

namespace terse::intercept {

#if defined(OPEN_MPI)
inline constexpr char kAbi[] = "openmpi";
#elif defined(MPICH_VERSION) || defined(MPICH_NAME)
inline constexpr char kAbi[] = "mpich";
#else
#error "mpi.h is neither Open MPI's nor that of a library with MPICH's ABI"
#endif

// Ends the process when the MPI in it is of the other family; when there is none yet, nothing happens.
void RefuseOtherMpi();

// The definition that comes after this library's own in the process (another tool's, or MPI's), else the
// first of `names` that any MPI library here has. Ends the process when there is none.
void* FindNext(const char* name, const char* fallback);

// A symbol of the process's MPI; null when it has none of that name.
void* FindSymbol(const char* name);

// The next definition of an intercepted function, found at its first call.
template <typename Function>
class Next {
 public:
  constexpr Next(const char* name, const char* fallback) : name_(name), fallback_(fallback) {}
  Function* get() {
    Function* function = function_.load(std::memory_order_relaxed);
    if (function == nullptr) [[unlikely]] {
      function = reinterpret_cast<Function*>(FindNext(name_, fallback_));
      function_.store(function, std::memory_order_relaxed);
    }
    return function;
  }

 private:
  const char* name_;
  const char* fallback_;
  std::atomic<Function*> function_{nullptr};
};

// A handle as a number: a key while its object lives, no longer.
template <typename Handle>
uintptr_t Bits(Handle handle) {
  if constexpr (std::is_pointer_v<Handle>) {
    return reinterpret_cast<uintptr_t>(handle);
  } else {
    return static_cast<uintptr_t>(static_cast<std::make_unsigned_t<Handle>>(handle));
  }
}

// What the library itself calls, always by its PMPI name.
// clang-format off
#define TERSE_PMPI_FUNCTIONS(X)                                                                     \
  X(Allgather) X(Allreduce) X(Barrier) X(Comm_call_errhandler) X(Comm_create_group) X(Comm_create_keyval) X(Comm_free) X(Comm_get_attr) X(Comm_get_name) X(Comm_group) \
  X(Comm_rank) X(Comm_set_attr) X(Comm_set_errhandler) X(Comm_size) X(Comm_test_inter) X(Gather)    \
  X(Gatherv) X(Get_library_version) X(Group_free) X(Group_size) X(Group_translate_ranks) X(Initialized) \
  X(Irecv) X(Query_thread) X(Recv_init) X(Request_free) X(Request_get_status) X(Send) X(Start) X(Type_size) \
  X(Wait)
// clang-format on

// NOLINTBEGIN(readability-identifier-naming, bugprone-macro-parentheses): the names are MPI's
struct Pmpi {
#define TERSE_PMPI_MEMBER(name) decltype(&PMPI_##name) name;
  TERSE_PMPI_FUNCTIONS(TERSE_PMPI_MEMBER)
#undef TERSE_PMPI_MEMBER
#if defined(OPEN_MPI)
  decltype(&PMPI_Comm_c2f) Comm_c2f;
  decltype(&PMPI_Comm_f2c) Comm_f2c;
  decltype(&PMPI_Type_f2c) Type_f2c;
  decltype(&PMPI_Op_f2c) Op_f2c;
  decltype(&PMPI_Request_f2c) Request_f2c;
  decltype(&PMPI_Request_c2f) Request_c2f;
#else
  MPI_Fint Comm_c2f(MPI_Comm handle) const { return handle; }
  MPI_Comm Comm_f2c(MPI_Fint handle) const { return handle; }
  MPI_Datatype Type_f2c(MPI_Fint handle) const { return handle; }
  MPI_Op Op_f2c(MPI_Fint handle) const { return handle; }
  MPI_Request Request_f2c(MPI_Fint handle) const { return handle; }
  MPI_Fint Request_c2f(MPI_Request handle) const { return handle; }
#endif
  // NOLINTEND(readability-identifier-naming, bugprone-macro-parentheses)

  MPI_Comm world;
  MPI_Comm self;
  MPI_Comm no_comm;
  MPI_Request no_request;
  MPI_Datatype int_type;
  MPI_Datatype char_type;
  MPI_Datatype word_type;  // of 64 bits, without a sign
  MPI_Op max;
  MPI_Errhandler errors_return;
};
const Pmpi& GetPmpi();  // only once MPI is in the process; any thread

// Makes the library's own communicator of the ranks of `comm`, which returns errors. Collective, but no
// collective call on `comm`: the program may be in one there, on another thread or by a request. It copies no
// attributes, so the program's copy functions are not called. False where MPI refuses.
bool MakePrivate(MPI_Comm comm, MPI_Comm* made);

// The predefined types and operations of this MPI.
const Vocabulary& GetVocabulary();

// Whether an address is what MPI_IN_PLACE is in Fortran.
bool FortranInPlace(const void* address);

// The address of a buffer of mpi_f08's that comes as a descriptor; null where it is not contiguous, or where
// that cannot be found out.
void* DescribedAddress(const void* descriptor);

// The signature of a call. MPI is not asked about a type that is not predefined: its size is 0 until
// AddDerivedSize, once MPI has taken the call.
Signature MakeSignature(int64_t count, MPI_Datatype type, MPI_Op op, Form form);
void AddDerivedSize(MPI_Datatype type, Signature* signature);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_LIBRARY_H_
