// SPDX-License-Identifier: Apache-2.0
//
// Who called what: the state behind the wrappers. It is made when it is first needed, on any thread, and
// told of the end by attributes: a communicator's by one of its own, MPI's by one of MPI_COMM_SELF. A call
// is looked at after it has succeeded, so errors are the program's and MPI's alone.
//
// Where TERSE_REPORT names no file and no configuration asks for compression, and where TERSE_DISABLE is 1,
// nothing is looked at: calls pass through.
#ifndef TERSE_RUNTIME_INTERCEPT_OBSERVER_H_
#define TERSE_RUNTIME_INTERCEPT_OBSERVER_H_

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/intercept/compression.h"
#include "runtime/intercept/hang/whereabouts.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/traffic.h"

namespace terse::intercept {

// What is known of one communicator. Handles are reused as soon as they are freed, so it hangs on the
// communicator itself, as an attribute; persistent requests share it. So does the exchange in place of MPI's
// own, which is asked before the call.
class Communicator {
 public:
  // `where` is its place in the hang forensics, or null.
  Communicator(CommunicatorFacts facts, std::shared_ptr<Whereabouts> where)
      : facts_(std::move(facts)), where_(std::move(where)) {}
  // From now on calls may be compressed. Before the first call.
  void Compress(MPI_Comm comm) { compression_ = std::make_unique<Compression>(comm, facts_); }
  ~Communicator();  // its traffic goes into the process's ledger
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // After a call that has succeeded.
  void Record(const Signature& signature, Binding binding, int64_t ticks) {
    const std::lock_guard<std::mutex> lock(mutex_);
    traffic_.Record(signature, binding, ticks);
  }
  CommunicatorRecord Snapshot() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    CommunicatorRecord record = MakeRecord(facts_, traffic_);
    if (compression_ != nullptr) compression_->Describe(&record);
    return record;
  }

  // Before a call; `call` is null for one that stays exact.
  Exchange::Outcome Take(const Signature& signature, const AllReduceCall* call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (compression_ == nullptr) return Exchange::Outcome::kPass;
    return compression_->Before(traffic_.period(), signature, call);
  }
  // Whether a persistent call may be compressed when it is started.
  bool MayCompress(const AllReduceCall& call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return compression_ != nullptr && compression_->Eligible(call.signature, call);
  }
  // Of a persistent call that goes exact, after `exact` was started.
  void Follow(MPI_Request exact, const AllReduceCall& call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    compression_->Follow(exact, call);
  }
  // Collective.
  void Close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (compression_ != nullptr) compression_->Close();
  }
  const std::shared_ptr<Whereabouts>& where() const { return where_; }
  std::string error() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return compression_ == nullptr ? "" : compression_->error();
  }

 private:
  const CommunicatorFacts facts_;
  const std::shared_ptr<Whereabouts> where_;
  mutable std::mutex mutex_;
  Traffic traffic_;
  std::unique_ptr<Compression> compression_;
};

// Whether calls are looked at. Cheap; any thread.
inline std::atomic<bool> observing{false};

// Whether MPI is to be initialized with MPI_THREAD_MULTIPLE, whatever the program asks for: so that its
// non-blocking calls can be compressed.
inline std::atomic<bool> raising_threads{false};

// Lives around MPI_Init. Another thread learns that MPI is there (MPI_Initialized) as soon as MPI is, before
// the library has found out what all ranks must know alike; its calls wait until it has.
class Initializing {
 public:
  Initializing();
  // MPI has been initialized. Collective over all ranks.
  void Succeeded();

 private:
  std::unique_lock<std::mutex> lock_;
};

// What is known of a communicator; it is made at the first use. Null for MPI_COMM_NULL, where MPI does not
// know the handle, and while MPI is not there. The second way is for what outlives a call.
Communicator* FindCommunicator(MPI_Comm comm);
std::shared_ptr<Communicator> ShareCommunicator(MPI_Comm comm);

// Before an all-reduce, where calls are compressed: true when it was made in place of MPI's, or has failed as
// *result says. `communicator` may be null.
bool TakeCall(Communicator* communicator, AllReduceCall call, int* result);
// The name of this thread's next all-reduce.
void NameNext(const char* name);

// Within a wrapper: the outermost one of this thread looks at the call, those under it (a Fortran wrapper
// whose MPI calls the C function) pass it on.
class Frame {
 public:
  Frame() { ++depth_; }
  ~Frame() { --depth_; }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  bool observes() const { return depth_ == 1 && observing.load(std::memory_order_relaxed); }

 private:
  // Part of the program's static thread-local memory: no call to reach it.
  // NOLINTNEXTLINE(readability-identifier-naming): a member of the class
  static inline thread_local int depth_ __attribute__((tls_model("initial-exec"))) = 0;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_OBSERVER_H_
