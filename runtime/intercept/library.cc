// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/library.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/intercept/predefined.h"

namespace terse::intercept {
namespace {

// Symbols that one family of libraries has and the other has not.
constexpr char kOpenMpiSymbol[] = "ompi_mpi_comm_world";
constexpr char kMpichSymbol[] = "MPII_Version_string";
#if defined(OPEN_MPI)
constexpr const char* kOwnSymbol = kOpenMpiSymbol;
constexpr const char* kOtherSymbol = kMpichSymbol;
constexpr char kOther[] = "MPICH";
constexpr char kOtherAbi[] = "mpich";
#else
constexpr const char* kOwnSymbol = kMpichSymbol;
constexpr const char* kOtherSymbol = kOpenMpiSymbol;
constexpr char kOther[] = "Open MPI";
constexpr char kOtherAbi[] = "openmpi";
#endif

// Exit code of a process whose set-up cannot work, as shells use it for a command that cannot be run.
constexpr int kRefused = 126;

[[noreturn]] void Refuse(const std::string& what) {
  std::fprintf(stderr, "terse: libterse_mpi_%s.so: %s\n", kAbi, what.c_str());
  std::fflush(stderr);
  _exit(kRefused);
}

std::string FileOf(const void* address) {
  Dl_info info;
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "?";
}

// Interpreters load MPI privately: it answers to its own handle alone.
void* FindInPrivateLibraries(const char* name) {
  std::vector<std::string> files;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* list) {
        const std::string_view path(info->dlpi_name);
        const std::string_view file = path.substr(path.rfind('/') + 1);
        if (file.starts_with("libmpi") || file.starts_with("libpmpi")) {
          static_cast<std::vector<std::string>*>(list)->emplace_back(path);
        }
        return 0;
      },
      &files);
  for (const std::string& file : files) {
    void* const handle = dlopen(file.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (handle == nullptr) continue;
    void* const found = dlsym(handle, name);
    dlclose(handle);  // the library stays: whoever loaded it holds it
    if (found != nullptr) return found;
  }
  return nullptr;
}

template <typename Function>
void Fill(Function* function, const char* name) {
  *function = reinterpret_cast<Function>(FindSymbol(name));
  if (*function == nullptr) Refuse(std::string("this process's MPI has no ") + name);
}

uintptr_t HandleBits(const PredefinedHandle& handle) {
  return *handle.symbol == '\0' ? handle.number : reinterpret_cast<uintptr_t>(FindSymbol(handle.symbol));
}

template <typename Handle>
Handle FromBits(uintptr_t bits) {
  if constexpr (std::is_pointer_v<Handle>) {
    return reinterpret_cast<Handle>(bits);
  } else {
    return static_cast<Handle>(bits);
  }
}

// Handles to indices. Filled once, then read by all threads.
template <size_t slots>
class HandleIndex {
 public:
  void Add(uintptr_t bits, int16_t index) {
    if (bits == 0 || Find(bits) != kNotPredefined) return;
    size_t slot = Slot(bits);
    while (table_[slot].bits != 0) slot = (slot + 1) % slots;
    table_[slot] = {bits, index};
  }
  int16_t Find(uintptr_t bits) const {
    for (size_t slot = Slot(bits); table_[slot].bits != 0; slot = (slot + 1) % slots) {
      if (table_[slot].bits == bits) return table_[slot].index;
    }
    return kNotPredefined;
  }

 private:
  struct Entry {
    uintptr_t bits = 0;
    int16_t index = kNotPredefined;
  };
  static size_t Slot(uintptr_t bits) {
    return static_cast<size_t>((bits * 0x9e3779b97f4a7c15u) >> 40) % slots;
  }
  std::array<Entry, slots> table_{};
};

struct Predefined {
  static constexpr size_t kTypeSlots = 512;
  static constexpr size_t kOpSlots = 128;

  Vocabulary vocabulary;
  HandleIndex<kTypeSlots> types;
  HandleIndex<kOpSlots> ops;
  // Found when a type is used first: an MPI may lack some that its mpi.h names.
  std::array<std::atomic<int32_t>, kTypeSlots> sizes{};

  Predefined() {
    for (const PredefinedHandle& type : PredefinedTypes()) AddType(type.name, HandleBits(type));
    for (const PredefinedHandle& op : PredefinedOps()) AddOp(op.name, HandleBits(op));
  }

  void AddType(const char* name, uintptr_t bits) {
    types.Add(bits, static_cast<int16_t>(vocabulary.types.size()));
    vocabulary.types.push_back({name, KindOf(name)});
  }
  void AddOp(const char* name, uintptr_t bits) {
    ops.Add(bits, static_cast<int16_t>(vocabulary.ops.size()));
    if (std::string_view(name) == "MPI_SUM") vocabulary.sum = static_cast<int16_t>(vocabulary.ops.size());
    vocabulary.ops.emplace_back(name);
  }
  static Vocabulary::TypeKind KindOf(std::string_view name) {
    using Kind = Vocabulary::TypeKind;
    for (const char* real :
         {"MPI_FLOAT", "MPI_REAL", "MPI_REAL4", "MPI_DOUBLE", "MPI_DOUBLE_PRECISION", "MPI_REAL8"}) {
      if (name == real) return Kind::kReal;
    }
    for (const char* half : {"MPIX_C_FLOAT16", "MPIX_SHORT_FLOAT", "MPI_SHORT_FLOAT", "MPI_REAL2"}) {
      if (name == half) return Kind::kHalf;
    }
    return Kind::kOther;
  }
  int32_t SizeOf(int16_t index, MPI_Datatype type) {
    std::atomic<int32_t>& known = sizes[static_cast<size_t>(index)];
    int32_t size = known.load(std::memory_order_relaxed);
    if (size == 0) [[unlikely]] {
      int found = 0;
      GetPmpi().Type_size(type, &found);
      size = found;
      known.store(size, std::memory_order_relaxed);
    }
    return size;
  }
};

Predefined& GetPredefined() {
  static Predefined* const predefined = new Predefined;
  return *predefined;
}

// A handle that the library itself uses.
template <typename Handle>
Handle Named(std::span<const PredefinedHandle> table, std::string_view name) {
  for (const PredefinedHandle& handle : table) {
    if (handle.name == name) return FromBits<Handle>(HandleBits(handle));
  }
  Refuse("mpi.h has no " + std::string(name));
}

}  // namespace

void* FindSymbol(const char* name) {
  void* const found = dlsym(RTLD_DEFAULT, name);
  return found != nullptr ? found : FindInPrivateLibraries(name);
}

void RefuseOtherMpi() {
  if (FindSymbol(kOwnSymbol) != nullptr) return;
  const void* const other = FindSymbol(kOtherSymbol);
  if (other == nullptr) return;
  Refuse("this program uses " + std::string(kOther) + " (" + FileOf(other) +
         "), whose handles this library cannot read. Preload libterse_mpi_" + kOtherAbi +
         ".so in its place, or start the job by `terse advise -- ...`, which chooses.");
}

void* FindNext(const char* name, const char* fallback) {
  RefuseOtherMpi();
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) found = FindInPrivateLibraries(fallback);
  if (found == nullptr) found = dlsym(RTLD_DEFAULT, fallback);
  if (found == nullptr) {
    Refuse(std::string(name) + " was called, but no MPI library of this process has it, nor " + fallback);
  }
  return found;
}

const Pmpi& GetPmpi() {
  static const Pmpi* const functions = [] {
    auto* const pmpi = new Pmpi{};
#define TERSE_PMPI_FILL(name) Fill(&pmpi->name, "PMPI_" #name);
    TERSE_PMPI_FUNCTIONS(TERSE_PMPI_FILL)
#if defined(OPEN_MPI)
    TERSE_PMPI_FILL(Comm_c2f)
    TERSE_PMPI_FILL(Comm_f2c)
    TERSE_PMPI_FILL(Type_f2c)
    TERSE_PMPI_FILL(Op_f2c)
    TERSE_PMPI_FILL(Request_f2c)
    TERSE_PMPI_FILL(Request_c2f)
#endif
#undef TERSE_PMPI_FILL
    pmpi->world = Named<MPI_Comm>(PredefinedOthers(), "MPI_COMM_WORLD");
    pmpi->self = Named<MPI_Comm>(PredefinedOthers(), "MPI_COMM_SELF");
    pmpi->int_type = Named<MPI_Datatype>(PredefinedTypes(), "MPI_INT");
    pmpi->char_type = Named<MPI_Datatype>(PredefinedTypes(), "MPI_CHAR");
#if defined(OPEN_MPI)
    pmpi->no_comm = static_cast<MPI_Comm>(FindSymbol("ompi_mpi_comm_null"));
    pmpi->no_request = static_cast<MPI_Request>(FindSymbol("ompi_request_null"));
#else
    pmpi->no_comm = MPI_COMM_NULL;
    pmpi->no_request = MPI_REQUEST_NULL;
#endif
    pmpi->word_type = Named<MPI_Datatype>(PredefinedTypes(), "MPI_UINT64_T");
    pmpi->max = Named<MPI_Op>(PredefinedOps(), "MPI_MAX");
    pmpi->errors_return = Named<MPI_Errhandler>(PredefinedOthers(), "MPI_ERRORS_RETURN");
    return pmpi;
  }();
  return *functions;
}

bool MakePrivate(MPI_Comm comm, MPI_Comm* made) {
  constexpr int kTag = 0x7e25;  // one that no program has, where it makes communicators at the same time
  const Pmpi& pmpi = GetPmpi();
  MPI_Group group;
  pmpi.Comm_group(comm, &group);
  const int result = pmpi.Comm_create_group(comm, group, kTag, made);
  pmpi.Group_free(&group);
  if (result != MPI_SUCCESS) return false;
  pmpi.Comm_set_errhandler(*made, pmpi.errors_return);
  return true;
}

bool FortranInPlace(const void* address) {
  // Open MPI: one of these objects, by the compiler's way to name it. MPICH: what the first of its two points
  // to, and in mpi_f08 the other.
  static const std::array<const void*, 6> places = [] {
    std::array<const void*, 6> found{};
    size_t i = 0;
    for (const char* name : {"mpi_fortran_in_place_", "mpi_fortran_in_place", "mpi_fortran_in_place__",
                             "MPI_FORTRAN_IN_PLACE", "MPIR_F08_MPI_IN_PLACE"}) {
      found[i++] = FindSymbol(name);
    }
    if (void* const pointer = FindSymbol("MPIR_F_MPI_IN_PLACE"); pointer != nullptr) {
      found[i] = *static_cast<void* const*>(pointer);
    }
    return found;
  }();
  return address != nullptr && std::find(places.begin(), places.end(), address) != places.end();
}

void* DescribedAddress(const void* descriptor) {
  if (descriptor == nullptr) return nullptr;
  // The address is a descriptor's first member with every compiler (Fortran 2018, 18.5.3); for the others the
  // compiler's own runtime must be asked.
  void* const address = *static_cast<void* const*>(descriptor);
  if (address == nullptr || FortranInPlace(address)) return address;
  using IsContiguous = int(const void*);
  static IsContiguous* const is_contiguous = reinterpret_cast<IsContiguous*>(FindSymbol("CFI_is_contiguous"));
  return is_contiguous != nullptr && is_contiguous(descriptor) == 1 ? address : nullptr;
}

const Vocabulary& GetVocabulary() { return GetPredefined().vocabulary; }

Signature MakeSignature(int64_t count, MPI_Datatype type, MPI_Op op, Form form) {
  static Predefined& predefined = GetPredefined();
  Signature signature;
  signature.count = count;
  signature.form = form;
  signature.op = predefined.ops.Find(Bits(op));
  signature.type = predefined.types.Find(Bits(type));
  if (signature.type != kNotPredefined) {
    signature.type_size = predefined.SizeOf(signature.type, type);
  }
  return signature;
}

void AddDerivedSize(MPI_Datatype type, Signature* signature) {
  if (signature->type != kNotPredefined) return;
  int size = 0;
  GetPmpi().Type_size(type, &size);
  signature->type_size = std::max(size, 0);  // negative: more than an int holds
}

}  // namespace terse::intercept
