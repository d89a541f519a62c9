// SPDX-License-Identifier: Apache-2.0
//
// How a program learns that a call which the library makes on a thread is over: by requests of MPI's own
// kinds, so every form of waiting and testing knows them, wrapped or not (decisions 0030 and 0031).
//
// - A non-blocking call has a generalized request.
// - A persistent one, which MPI knows no generalized form of, has a persistent receive of an empty message
// from
//   this process to itself. MPI_Start posts it, and the thread sends the message. A failed call is a message
//   that is too long. The messages travel in a communicator of all ranks: in one of this process alone MPICH
//   4.0 does not wake the thread that waits.
//
// Needs MPI_THREAD_MULTIPLE. Any thread.
#ifndef TERSE_RUNTIME_INTERCEPT_COMPLETION_H_
#define TERSE_RUNTIME_INTERCEPT_COMPLETION_H_

#include <mpi.h>

#include <atomic>

namespace terse::intercept {

// A copy is the same request. It is completed once.
class GeneralizedRequest {
 public:
  GeneralizedRequest() = default;
  static GeneralizedRequest Start();
  MPI_Request handle() const { return handle_; }
  void Complete(bool failed) const;

 private:
  MPI_Request handle_{};
  std::atomic<bool>* failed_ = nullptr;  // lives until MPI frees the request
};

// In MPI_Init: the library's own communicator of all ranks, which returns errors, and this process's rank.
// Without it there are no persistent ones.
void SetMessages(MPI_Comm comm, int rank);
// Makes the request that stands for a persistent call, and the tag of its message; negative where MPI
// refused.
int MakePersistent(MPI_Request* request);
// Once for each start, after it. Error handlers are told of a failure by the caller.
void CompletePersistent(int tag, bool failed);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_COMPLETION_H_
