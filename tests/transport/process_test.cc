// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace terse::transport {
namespace {

TEST(Process, SeesItself) {
  const ProcessIdentity self = ThisProcess();
  EXPECT_EQ(self.pid, getpid());
  EXPECT_NE(self.start_time, 0u);
  EXPECT_TRUE(ProcessVisible(self));
  EXPECT_TRUE(SameNode(self, ThisProcess()));
}

TEST(Process, OtherMachinesAreOtherNodes) {
  const ProcessIdentity self = ThisProcess();
  ProcessIdentity other = self;
  std::strcpy(other.host, "elsewhere");
  EXPECT_FALSE(SameNode(self, other));
  other = self;
  std::strcpy(other.boot_id, "another boot");
  EXPECT_FALSE(SameNode(self, other));
}

TEST(Process, ReusedPidIsAnotherProcess) {
  ProcessIdentity other = ThisProcess();
  ++other.start_time;
  EXPECT_FALSE(ProcessVisible(other));
  EXPECT_TRUE(ProcessGone(other));
}

// A killed process is gone at once, though nobody has waited for it yet.
TEST(Process, KilledChildIsGone) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const ProcessIdentity self = ThisProcess();
    if (write(ready[1], &self, sizeof(self)) != sizeof(self)) _exit(1);
    for (;;) pause();
  }
  ProcessIdentity identity;
  ASSERT_EQ(read(ready[0], &identity, sizeof(identity)), static_cast<ssize_t>(sizeof(identity)));
  EXPECT_EQ(identity.pid, child);
  EXPECT_TRUE(ProcessVisible(identity));
  kill(child, SIGKILL);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);  // leaves the zombie
  EXPECT_TRUE(ProcessGone(identity));
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(ProcessGone(identity));
}

}  // namespace
}  // namespace terse::transport
