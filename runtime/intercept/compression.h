// SPDX-License-Identifier: Apache-2.0
//
// An Exchange (exchange.h) over one MPI communicator. It speaks over a communicator of its own, made of the
// same ranks by MPI_Comm_create_group inside of a call that is collective anyway.
//
// A non-blocking call must return at once, whatever the other ranks do, and must go on while this one is
// anywhere in MPI or computing. So from the first of them on that may be compressed, the exchange lives on a
// thread (progress_thread.h): the call hands it over and returns a request that every form of waiting and
// testing knows (completion.h), and so does the start of a persistent call. Both need MPI_THREAD_MULTIPLE on
// all ranks (CommunicatorFacts::threads); without it such calls pass through.
#ifndef TERSE_RUNTIME_INTERCEPT_COMPRESSION_H_
#define TERSE_RUNTIME_INTERCEPT_COMPRESSION_H_

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/intercept/eligibility.h"
#include "runtime/intercept/exchange.h"
#include "runtime/intercept/period.h"
#include "runtime/intercept/progress_thread.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/traffic.h"

namespace terse::intercept {

// Whether calls are compressed, which a configuration asks for (settings.h). Cheap; any thread.
inline std::atomic<bool> compressing{false};

// What decides which calls are compressed, as the job's configuration has it; null where it cannot be read.
const Rules* JobRules();

// An all-reduce as the program calls it.
struct AllReduceCall {
  Binding binding;
  Form form;
  const void* send;  // MPI_IN_PLACE, also for Fortran's
  void* recv;
  int64_t count;
  MPI_Datatype type;
  MPI_Op op;
  MPI_Comm comm;
  // Of a non-blocking call: set by MPI, or where the call was taken. Of a persistent one: set by MPI_*_init.
  MPI_Request* request = nullptr;
  Signature signature = {};
  int tag = -1;                // of a persistent call: of the message that completes it (completion.h)
  std::string_view name = {};  // that the program gave the call
};

// Not thread-safe.
class Compression {
 public:
  // `comm` outlives it, but for Close.
  Compression(MPI_Comm comm, const CommunicatorFacts& facts);
  Compression(const Compression&) = delete;
  Compression& operator=(const Compression&) = delete;

  bool Eligible(const Signature& signature, const AllReduceCall& call) const;
  // Before a call, and before `learner` takes it; `call` is null for one that stays exact. A call that does
  // not block and was taken (kDone) is under way, and fails when it is waited for.
  Exchange::Outcome Before(const PeriodLearner& learner, const Signature& signature,
                           const AllReduceCall* call);

  // A persistent call that was not taken: `exact`, which has been started, completes it.
  void Follow(MPI_Request exact, const AllReduceCall& call);

  // Collective: the communicator is being freed, or MPI finalized.
  void Close();

  // For the report.
  void Describe(CommunicatorRecord* record) const;
  std::string error() const;

 private:
  terse_group_t* Open(std::string* error) const;
  bool Same(uint64_t value);
  Exchange::Outcome OnThread(const Exchange::Place& place, const Exchange::Call& exchanged,
                             const AllReduceCall* call);
  void MakeThread();
  // False where MPI refuses the request.
  bool StartRequest(const Exchange::Place& place, const Exchange::Call& exchanged, const AllReduceCall& call);

  MPI_Comm const comm_;  // NOLINT(misc-misplaced-const): a handle
  const CommunicatorFacts facts_;
  MPI_Comm private_{};
  bool has_private_ = false;
  Exchange exchange_;
  std::string last_report_;  // once closed

  // Once it is there, exchange_ and the private communicator are its own.
  std::unique_ptr<ProgressThread> thread_;
  bool follows_ = false;  // calls follow the period as far as they were handed over
  std::shared_ptr<const std::vector<uint64_t>> period_;  // for tasks: the learner's moves on
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_COMPRESSION_H_
