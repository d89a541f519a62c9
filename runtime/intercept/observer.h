// SPDX-License-Identifier: Apache-2.0
//
// Who called what: the state behind the wrappers. It is made when it is first needed, on any thread, and
// told of the end by attributes: a communicator's by one of its own, MPI's by one of MPI_COMM_SELF. A call
// is looked at after it has succeeded, so errors are the program's and MPI's alone.
//
// Where TERSE_REPORT names no file, and where TERSE_DISABLE is 1, nothing is looked at: calls pass through.
#ifndef TERSE_RUNTIME_INTERCEPT_OBSERVER_H_
#define TERSE_RUNTIME_INTERCEPT_OBSERVER_H_

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "runtime/intercept/signature.h"
#include "runtime/intercept/traffic.h"

namespace terse::intercept {

// What is known of one communicator. Handles are reused as soon as they are freed, so it hangs on the
// communicator itself, as an attribute; persistent requests share it. An exchange in place of MPI's own
// belongs here, too: it would be asked before the call, under the same lock.
class Communicator {
 public:
  explicit Communicator(CommunicatorFacts facts) : facts_(std::move(facts)) {}
  ~Communicator();  // its traffic goes into the process's ledger
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  void Record(const Signature& signature, Binding binding, int64_t ticks) {
    const std::lock_guard<std::mutex> lock(mutex_);
    traffic_.Record(signature, binding, ticks);
  }
  CommunicatorRecord Snapshot() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return MakeRecord(facts_, traffic_);
  }

 private:
  const CommunicatorFacts facts_;
  mutable std::mutex mutex_;
  Traffic traffic_;
};

// Whether calls are looked at. Cheap; any thread.
inline std::atomic<bool> observing{false};

// MPI has been initialized by a call of this process.
void NoteInit();

void NoteCall(Binding binding, Form form, int64_t count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
              int64_t ticks);

// Persistent all-reduces: made, started (possibly among other requests), freed.
void NotePersistent(Binding binding, int64_t count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                    MPI_Request request);
void NoteStarted(MPI_Request request, int64_t ticks);
void ForgetPersistent(uintptr_t request);
inline std::atomic<int64_t> persistent_requests{0};

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
  static inline thread_local int depth_ __attribute__((tls_model("initial-exec"))) = 0;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_OBSERVER_H_
