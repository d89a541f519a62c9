// SPDX-License-Identifier: Apache-2.0
//
// The transport between threads of one process: for tests, for one-rank jobs, and as the reference of
// what the contract (transport.h) means. Every message is copied once when it is sent and once when it
// is received; sends therefore end at once.
//
// Allreduce sums in rank order in the element's own type, so it is deterministic.
//
// A group that is destroyed is a rank that is lost: waits of the others that still need a message of it
// end in UNAVAILABLE. Tests simulate a crash that way. Shrink lets the survivors go on.
#ifndef TERSE_TRANSPORT_INPROC_INPROC_H_
#define TERSE_TRANSPORT_INPROC_INPROC_H_

#include <memory>

#include "absl/status/statusor.h"
#include "transport/transport.h"

namespace terse::transport {

// Blocks until `world_size` threads have come with the same hub and size, each with a rank of its own;
// those that come later make the next group. DEADLINE_EXCEEDED names the ranks that did not come within
// `timeout`; ALREADY_EXISTS a rank that came twice. Thread-safe.
absl::StatusOr<std::unique_ptr<Group>> OpenInproc(const OpenOptions& options);

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_INPROC_INPROC_H_
