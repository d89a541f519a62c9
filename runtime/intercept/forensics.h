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

// For a Waiting (hang/whereabouts.h) around what waits for a call that was started (requests.h); null while
// nothing is watched.
Board* WatchedBoard();

// For the report.
std::vector<HangEvent> HangEvents(int64_t* count);
std::string ForensicsTrouble();  // empty while all is well

// Around the next definition of an all-reduce: the rank is in it from `now` on. `where` is null for a
// communicator that is not watched.
class Inside {
 public:
  Inside(Whereabouts* where, const Signature& signature, int64_t now) : where_(where) {
    if (where_ != nullptr) where_->Enter(signature, now);
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
  Whereabouts* where_;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_FORENSICS_H_
