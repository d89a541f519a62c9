// SPDX-License-Identifier: Apache-2.0
//
// Is a peer's process still there? MPI does not say; for peers on the same machine /proc does.
#ifndef TERSE_TRANSPORT_MPI_PROCESS_H_
#define TERSE_TRANSPORT_MPI_PROCESS_H_

#include <cstdint>
#include <type_traits>

namespace terse::transport {

// What a process tells its peers of itself when a group opens. Exchanged as raw bytes between processes
// of one build; zero-terminated text.
struct ProcessIdentity {
  int64_t pid = 0;
  uint64_t start_time = 0;  // of /proc/<pid>/stat, in ticks since boot: a reused pid has another
  char host[64] = {};
  char boot_id[40] = {};
  uint64_t may_block = 0;  // 1: its waits have no deadline to keep (Communicator::may_block)
};
static_assert(std::is_trivially_copyable_v<ProcessIdentity>);

ProcessIdentity ThisProcess();

// Same boot of the same named machine.
bool SameNode(const ProcessIdentity& a, const ProcessIdentity& b);

// True when /proc shows exactly this process, running. Asked once at open it tells whether ProcessGone
// can be trusted later: a peer on another machine or in another pid namespace is not visible.
bool ProcessVisible(const ProcessIdentity& process);

// For a process that was visible: true once it has ended, a zombie included.
bool ProcessGone(const ProcessIdentity& process);

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_MPI_PROCESS_H_
