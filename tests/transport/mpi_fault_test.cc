// SPDX-License-Identifier: Apache-2.0
//
// Runs fault_rank under mpirun and reads what the survivors say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <string>

namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

std::string Survivors(const std::string& fault, const std::string& operation) {
  // Without --enable-recovery Open MPI's launcher kills the survivors of a lost rank.
  const std::string command = "timeout -k 5 60 " TERSE_LAUNCHER " --enable-recovery -n 4 " TERSE_FAULT_RANK
                              " mpi_openmpi " +
                              fault + " " + operation + " 2>&1";
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "cannot run " + command;
  std::array<char, 4096> chunk;
  while (fgets(chunk.data(), chunk.size(), pipe) != nullptr) output += chunk.data();
  pclose(pipe);  // the launcher's status tells of the dead rank, not of the survivors
  return output;
}

TEST(MpiFault, KilledRankIsNamed) {
  for (const char* operation : {"allgatherv", "allreduce", "barrier"}) {
    SCOPED_TRACE(operation);
    const std::string output = Survivors("kill", operation);
    for (const char* rank : {"0", "1", "2"}) {
      EXPECT_THAT(output, ContainsRegex(std::string("survivor ") + rank +
                                        ": UNAVAILABLE: [^\n]*rank 3 [^\n]*stays broken"));
    }
  }
}

TEST(MpiFault, SilentRankIsNamed) {
  for (const char* operation : {"allgatherv", "barrier"}) {
    SCOPED_TRACE(operation);
    const std::string output = Survivors("silence", operation);
    for (const char* rank : {"0", "1", "2"}) {
      EXPECT_THAT(output, ContainsRegex(std::string("survivor ") + rank +
                                        ": DEADLINE_EXCEEDED: no message for 2500 ms from "
                                        "[^\n]*rank 3 [^\n]*stays broken"));
    }
  }
}

TEST(MpiFault, SilentRankEndsNativeAllreduce) {
  const std::string output = Survivors("silence", "allreduce");
  for (const char* rank : {"0", "1", "2"}) {
    EXPECT_THAT(output,
                ContainsRegex(std::string("survivor ") + rank + ": DEADLINE_EXCEEDED: [^\n]*stays broken"));
  }
}

TEST(MpiFault, AbandonedOperationBreaksTheGroup) {
  const std::string output = Survivors("abandon", "allgatherv");
  for (const char* rank : {"0", "1", "2", "3"}) {
    EXPECT_THAT(output,
                ContainsRegex(std::string("survivor ") + rank + ": FAILED_PRECONDITION: [^\n]*stays broken"));
  }
}

}  // namespace
