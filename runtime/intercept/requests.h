// SPDX-License-Identifier: Apache-2.0
//
// The requests of all-reduces that do not block, by handle: a persistent one from its making to
// MPI_Request_free, another from its start until it is seen to be over. A handle means another request as
// soon as its own is gone, so everything that ends requests is wrapped.
//
// Where a persistent call may be compressed the program gets another request in place of MPI's
// (completion.h), which stays behind it for the starts that go exact.
#ifndef TERSE_RUNTIME_INTERCEPT_REQUESTS_H_
#define TERSE_RUNTIME_INTERCEPT_REQUESTS_H_

#include <mpi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "runtime/intercept/compression.h"
#include "runtime/intercept/hang/whereabouts.h"
#include "runtime/intercept/library.h"
#include "runtime/intercept/observer.h"

namespace terse::intercept {

// How many there are. Cheap; any thread.
inline std::atomic<int64_t> known_requests{0};

// MPI has made a persistent all-reduce. *call.request may become another request. The signature is made here.
void AddPersistent(const AllReduceCall& call);
// The program has started a request of any kind, within `ticks`. The result of the start.
int NoteStarted(MPI_Request request, int64_t ticks);
// MPI_Request_free has freed it.
void ForgetRequest(uintptr_t request);

// A non-blocking all-reduce of a communicator that is watched has been started.
void AddStarted(const Communicator& communicator, const Signature& signature, MPI_Request request);

// Around a wait for requests, or a test of them. While it `waits`, hang forensics know for which.
class Completing {
 public:
  Completing(bool waits, const std::vector<MPI_Request>& requests);
  Completing(const Completing&) = delete;
  Completing& operator=(const Completing&) = delete;

  // Afterwards; `handle` gives the i-th request as it is now.
  template <typename Handle>
  void Over(const Handle& handle) {
    for (const auto& [i, request] : known_) {
      if (handle(static_cast<int>(i)) == GetPmpi().no_request) ForgetRequest(request);
    }
  }

 private:
  std::vector<std::pair<size_t, uintptr_t>> known_;  // index and handle
  std::deque<Waiting> waits_;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_REQUESTS_H_
