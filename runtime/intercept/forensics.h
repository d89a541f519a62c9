// SPDX-License-Identifier: Apache-2.0
//
// Hang forensics (hang/watch.h) over MPI: which calls are watched, and how the ranks come to know each other.
#ifndef TERSE_RUNTIME_INTERCEPT_FORENSICS_H_
#define TERSE_RUNTIME_INTERCEPT_FORENSICS_H_

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/intercept/hang/event.h"
#include "runtime/intercept/hang/whereabouts.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/tick.h"
#include "runtime/intercept/traffic.h"

namespace terse::intercept {

// Whether calls are watched. Cheap; any thread.
inline std::atomic<bool> watching{false};

// Collective over `world`, which is the library's own. What goes wrong on this rank is in ForensicsTrouble.
void StartForensics(MPI_Comm world, int rank, int size);
// This rank has come to MPI_Finalize: the others can learn so until StopForensics.
void EnterFinalize();
// Collective over `world`: ends when all ranks have come.
void StopForensics(MPI_Comm world);
// The same without the others.
void StopForensicsAlone();

// A communicator's place on this rank's board; null where it is not watched. `ranks` are its ranks in
// MPI_COMM_WORLD.
std::shared_ptr<Whereabouts> Watched(const CommunicatorFacts& facts, const std::vector<int>& ranks);

// For a Waiting (hang/whereabouts.h) around what waits for a call that was started; null while nothing is
// watched.
Board* WatchedBoard();

// For the report.
std::vector<HangEvent> HangEvents(int64_t* count);
std::string ForensicsTrouble();  // empty while all is well

// The place of a communicator that the program is about to use; null where it is not watched (observer.cc).
Whereabouts* WhereaboutsOf(MPI_Comm comm);

// Around the next definition of an all-reduce: the rank is in it from `now` on. MPI is not asked about what
// is no predefined type, so that errors stay the call's own.
class Inside {
 public:
  Inside(Form form, int64_t count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, int64_t now) {
    if (watching.load(std::memory_order_relaxed)) Enter(form, count, type, op, comm, now);
  }
  // A call that ended by an exception.
  ~Inside() {
    if (where_ != nullptr) Leave(false, Now());
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  void Leave(bool succeeded, int64_t now) {
    if (where_ != nullptr) where_->Leave(succeeded, now);
    where_ = nullptr;
  }

 private:
  void Enter(Form form, int64_t count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, int64_t now);

  Whereabouts* where_ = nullptr;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_FORENSICS_H_
