// SPDX-License-Identifier: Apache-2.0
//
// The observing report: one rank's, and those of a job merged.
#include "runtime/intercept/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace terse::testing {
namespace {

using namespace intercept;  // NOLINT: the names of the unit under test
using Json = nlohmann::json;

Vocabulary Words() {
  return {.types = {{"MPI_FLOAT", Vocabulary::TypeKind::kReal}}, .ops = {"MPI_SUM"}, .sum = 0};
}

// A rank of 4 whose world did `steps` steps of two calls; ranks of even number have a communicator more.
std::string Report(int rank, int steps) {
  Ledger ledger;
  Traffic traffic;
  for (int step = 0; step < steps; ++step) {
    traffic.Record({.count = 5000, .type_size = 4, .type = 0, .op = 0}, Binding::kC, 1000 * (rank + 1));
    traffic.Record({.count = 10, .type_size = 4, .type = 0, .op = 0}, Binding::kMpifH, 10);
  }
  ledger.Add(MakeRecord({.name = "MPI_COMM_WORLD", .size = 4, .members = 1, .inter = false}, traffic));
  if (rank % 2 == 0) {
    Traffic even;
    even.Record({.count = 1, .type_size = 24, .type = -1, .op = -1, .form = Form::kNonblocking},
                Binding::kMpiF08, 5);
    ledger.Add(MakeRecord({.name = "", .size = 2, .members = 2, .inter = false}, even));
  }
  RankFacts facts;
  facts.rank = rank;
  facts.world_size = 4;
  facts.rules.min_elements = 4096;
  facts.seconds_per_tick = 1e-6;
  return RankReport(facts, ledger, Words());
}

TEST(Report, MergesWhatRanksSawOfTheSameCommunicator) {
  const Json job = Json::parse(MergeReports({Report(0, 13), Report(1, 13), Report(2, 13), Report(3, 13)}));
  EXPECT_EQ(job.at("ranks"), Json({0, 1, 2, 3}));
  EXPECT_EQ(job.at("intercepted").at("calls"), 4 * 26 + 2);
  EXPECT_EQ(job.at("intercepted").at("mpi_f08"), 2);
  EXPECT_EQ(job.at("intercepted").at("nonblocking"), 2);
  ASSERT_EQ(job.at("communicators").size(), 2u);
  const Json& world = job.at("communicators").at(0);
  EXPECT_EQ(world.at("ranks"), 4);
  EXPECT_EQ(world.at("calls"), 26);
  EXPECT_EQ(world.at("bytes"), 13 * 4 * 5010);
  EXPECT_EQ(world.at("period"), 2);
  const Json& site = world.at("sites").at(0);
  EXPECT_EQ(site.at("calls"), 10);
  EXPECT_DOUBLE_EQ(site.at("mean_us").get<double>(), (1000 + 2000 + 3000 + 4000) / 4.0);
  EXPECT_EQ(site.at("compress"), true);
  EXPECT_EQ(job.at("communicators").at(1).at("ranks"), 2);
  EXPECT_EQ(job.at("communicators").at(1).at("sites").at(0).at("type"), "derived");
}

TEST(Report, KeepsApartWhatDiffers) {
  const Json job = Json::parse(MergeReports({Report(1, 13), Report(3, 14)}));
  EXPECT_EQ(job.at("communicators").size(), 2u);
  EXPECT_EQ(job.at("ranks"), Json({1, 3}));
}

// One rank's, of a world of 4, that spoke of waits.
std::string Hanging(int rank, int64_t count, double seconds, const std::string& trouble) {
  RankFacts facts;
  facts.rank = rank;
  facts.world_size = 4;
  facts.hang_count = count;
  if (count > 0) facts.hangs.push_back({rank, "call 4 of MPI_COMM_WORLD", seconds, true, "why"});
  facts.forensics_trouble = trouble;
  return RankReport(facts, Ledger(), Words());
}

TEST(Report, HasTheWaitsOfAllRanks) {
  Json job = Json::parse(
      MergeReports({Hanging(0, 0, 0, ""), Hanging(1, 2, 5, "no sockets"), Hanging(2, 1, 70, "")}));
  EXPECT_EQ(job.at("hangs").at("count"), 3);
  EXPECT_EQ(job.at("hangs").at("longest_s"), 70);
  ASSERT_EQ(job.at("hangs").at("events").size(), 2u);
  EXPECT_EQ(job.at("hangs").at("events").at(1), Json({{"rank", 2},
                                                      {"call", "call 4 of MPI_COMM_WORLD"},
                                                      {"seconds", 70.0},
                                                      {"over", true},
                                                      {"message", "why"}}));
  EXPECT_EQ(job.at("warnings"), Json::array({"rank 1 has no hang forensics: no sockets"}));
  job = Json::parse(MergeReports({Hanging(0, 0, 0, ""), Hanging(1, 0, 0, "")}));
  EXPECT_FALSE(job.contains("hangs"));
  EXPECT_EQ(job.at("warnings"), Json::array());
}

TEST(Report, TextsThatAreNoneAreLeftOut) {
  const Json job = Json::parse(MergeReports({Report(0, 5), "{", "", "7", Report(1, 5)}));
  EXPECT_EQ(job.at("ranks"), Json({0, 1}));
}

TEST(Report, IsWrittenWholeOrNotAtAll) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / "terse_intercept_report_test";
  std::filesystem::create_directory(folder);
  const std::string path = folder / "report.json";
  EXPECT_EQ(WriteWhole(path, "old"), "");
  EXPECT_EQ(WriteWhole(path, "new"), "");
  std::ifstream in(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  EXPECT_THAT(WriteWhole(folder / "nowhere" / "report.json", "text"), ::testing::HasSubstr("nowhere"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace terse::testing
