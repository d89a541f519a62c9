// SPDX-License-Identifier: Apache-2.0
//
// A rank is killed with SIGKILL in the middle of training: every survivor names it in bounded time, and
// the survivors' parameters are equal in every step that they completed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <set>
#include <sstream>
#include <string>

namespace terse::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Survivors {
  std::map<int, std::string> errors;                 // by rank
  std::map<int, std::map<int, std::string>> hashes;  // by step, by rank
  std::string output;
};

Survivors RunAndKill(const std::string& when, const std::string& yaml) {
  // The launcher ends the job at its own timeout: survivors that hang print no error and fail the test.
  const std::string command = std::string("MPIEXEC_TIMEOUT=60 ") + TERSE_LAUNCHER +
                              " --enable-recovery -n 4 " + TERSE_PROGRAM + " " + when + " '" + yaml +
                              "' 2>&1";
  Survivors survivors;
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return survivors;
  char buffer[4096];
  while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) {
    survivors.output += buffer;
    std::istringstream line(buffer);
    std::string word;
    std::string what;
    int rank = -1;
    if (!(line >> word >> rank >> what) || word != "rank") continue;
    if (what == "error") {
      std::getline(line >> std::ws, survivors.errors[rank]);
    } else if (what == "step") {
      int step = -1;
      std::string hash;
      if (line >> step >> word >> hash) survivors.hashes[step][rank] = hash;
    }
  }
  (void)pclose(pipe);
  return survivors;
}

struct Kill {
  std::string name;
  std::string when;
  std::string yaml;
};
class KillRank : public ::testing::TestWithParam<Kill> {};

TEST_P(KillRank, SurvivorsReportItAndAgree) {
  const Survivors survivors =
      RunAndKill(GetParam().when, GetParam().yaml + "\ndense_when_faster: false\ntransport: {timeout_s: 5}");
  for (const int rank : {0, 1, 3}) {
    ASSERT_TRUE(survivors.errors.contains(rank)) << "rank " << rank << " said nothing:\n" << survivors.output;
    EXPECT_THAT(survivors.errors.at(rank),
                AnyOf(StartsWith("TERSE_UNAVAILABLE"), StartsWith("TERSE_TIMEOUT")));
    EXPECT_THAT(survivors.errors.at(rank), HasSubstr("rank"));
  }
  ASSERT_TRUE(survivors.hashes.contains(7)) << survivors.output;
  for (const auto& [step, by_rank] : survivors.hashes) {
    std::set<std::string> different;
    for (const auto& [rank, hash] : by_rank) different.insert(hash);
    EXPECT_EQ(different.size(), 1u) << "step " << step;
  }
  EXPECT_LE(survivors.hashes.rbegin()->first, 12) << "exchanges went on without rank 2";
}

INSTANTIATE_TEST_SUITE_P(Faults, KillRank,
                         ::testing::Values(Kill{"dense_between", "between", "compressor: none"},
                                           Kill{"dense_within", "within", "compressor: none"},
                                           Kill{"quantize_between", "between", "compressor: quantize"},
                                           Kill{"quantize_within", "within", "compressor: quantize"},
                                           Kill{"topk_between", "between", "compressor: topk"},
                                           Kill{"topk_within", "within", "compressor: topk"}),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace terse::testing
