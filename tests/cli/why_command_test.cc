// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/why_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "terse/terse.hpp"

namespace terse::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The report of a group of one rank.
std::string Report() {
  terse_group_t* handle = nullptr;
  Check(
      terse_group_open("{compressor: quantize, transport: {name: inproc}, rank: 0, world_size: 1}", &handle));
  Group group(handle);
  const TensorId weight = group.Register("fc1.weight", {256, 128});
  group.Register("fc1.bias", {128});
  std::vector<float> gradient(256 * 128, 1.0f);
  group.Allreduce(weight, gradient.data(), gradient.data());
  group.Step();
  return group.Report();
}

TEST(Why, ReadsWhatAGroupReports) {
  const Paths paths = ReadPaths(Report(), "*");
  ASSERT_EQ(paths.rows.size(), 2u);
  EXPECT_EQ(paths.rows[0].name, "fc1.weight");
  EXPECT_EQ(paths.rows[0].elements, 256 * 128);
  EXPECT_EQ(paths.rows[0].calls, 1);
  EXPECT_EQ(paths.rows[0].path, "dense");
  EXPECT_THAT(paths.rows[0].reason, HasSubstr("one rank"));
  EXPECT_THAT(paths.title, HasSubstr("method allreduce, compressor quantize, 1 ranks over inproc, 1 steps"));

  EXPECT_EQ(ReadPaths(Report(), "*.bias").rows.size(), 1u);
  EXPECT_THAT(PathsTable(ReadPaths(Report(), "nothing")), HasSubstr("none whose name fits"));
}

constexpr char kCompressed[] =
    R"({"method": "allreduce", "compressor": "topk", "transport": "mpi", "world_size": 4,
  "steps": 12, "skipped_steps": 1,
  "dense_when_faster": {"events": [{"step": 8, "tensor": "a", "decision": "dense", "cause": "first trial",
                                    "reason": "dense is faster: 1.2 ms < 1.9 ms"}]},
  "tensors": [
    {"name": "a", "elements": 25600000, "codec": "topk", "exchange": "all_gather", "reason": "configured", "calls": 10,
     "nonfinite_calls": 2, "bytes_sent": 100, "dense_bytes": 2550, "encode_ms": 10, "exchange_ms": 20, "decode_ms": 5},
    {"name": "b", "elements": 10, "codec": "none", "exchange": "dense", "reason": "excluded by \"b\"", "calls": 0,
     "nonfinite_calls": 0, "bytes_sent": 0, "dense_bytes": 0, "encode_ms": 0, "exchange_ms": 0, "decode_ms": 0}]})";

TEST(Why, SaysHowATensorWentAndWhatWasDecided) {
  const Paths paths = ReadPaths(kCompressed, "*");
  ASSERT_EQ(paths.rows.size(), 2u);
  EXPECT_EQ(paths.rows[0].path, "topk by all_gather");
  EXPECT_DOUBLE_EQ(paths.rows[0].call_ms, 3.5);
  EXPECT_DOUBLE_EQ(paths.rows[0].times_less, 25.5);
  EXPECT_THAT(paths.rows[0].notes,
              ::testing::ElementsAre("NaN or Inf in 2 of its exchanges",
                                     "step 8: dense, since dense is faster: 1.2 ms < 1.9 ms (first trial)"));
  const std::string table = PathsTable(paths);
  EXPECT_THAT(table, HasSubstr("a       25.6 M     10      3.5    25.5  topk by all_gather  configured\n"));
  EXPECT_THAT(table,
              HasSubstr("b           10      0        0       -  dense               excluded by \"b\"\n"));

  const auto json = nlohmann::json::parse(PathsJson(paths));
  EXPECT_EQ(json.at(0).at("times_less"), 25.5);
  EXPECT_TRUE(json.at(1).at("times_less").is_null());
}

constexpr char kObserved[] = R"({"program": "train", "mpi": "Open MPI 4.1.4", "world_size": 2,
  "warnings": ["averages of weights look like gradients"],
  "hangs": {"count": 3, "longest_s": 75.5,
            "events": [{"rank": 0, "call": "call 4 of MPI_COMM_WORLD", "seconds": 75.5, "over": true,
                        "message": "rank 0 has waited 60 s in call 4 of MPI_COMM_WORLD. Not come: rank 1"},
                       {"rank": 2, "call": "call 9 of half", "seconds": 60, "over": false,
                        "message": "rank 2 has waited 60 s in call 9 of half"}]},
  "communicators": [{"name": "MPI_COMM_WORLD", "size": 2, "sites": [
    {"position": 0, "count": 131072, "type": "MPI_FLOAT", "op": "MPI_SUM", "binding": "C", "form": "blocking",
     "calls": 90, "mean_us": 1500, "compress": true, "reason": "periodic", "doubts": ["one call a step"]},
    {"position": null, "count": 1, "type": "MPI_INT", "op": "MPI_MAX", "binding": "mpif.h", "form": "blocking",
     "calls": 3, "mean_us": 20, "compress": false, "reason": "not MPI_FLOAT", "doubts": []}]}]})";

TEST(Why, ReadsWhatWasObserved) {
  const Paths paths = ReadPaths(kObserved, "*");
  ASSERT_EQ(paths.rows.size(), 2u);
  EXPECT_EQ(paths.rows[0].name, "MPI_COMM_WORLD #0 MPI_FLOAT MPI_SUM, blocking, C");
  EXPECT_EQ(paths.rows[0].path, "can be compressed");
  EXPECT_DOUBLE_EQ(paths.rows[0].call_ms, 1.5);
  EXPECT_EQ(paths.rows[1].name, "MPI_COMM_WORLD MPI_INT MPI_MAX, blocking, mpif.h");
  EXPECT_EQ(paths.rows[1].path, "exact");
  EXPECT_THAT(PathsTable(paths), HasSubstr("look at it: one call a step"));
  EXPECT_THAT(PathsTable(paths), HasSubstr("\naverages of weights look like gradients\n"));
  EXPECT_THAT(PathsTable(paths),
              HasSubstr("waited: rank 0 has waited 60 s in call 4 of MPI_COMM_WORLD. Not come: rank 1\n"));
  EXPECT_THAT(PathsTable(paths), HasSubstr("waited until the report was written: rank 2 has waited 60 s"));
  EXPECT_THAT(PathsTable(paths), HasSubstr("1 more waits that are not listed"));
}

// A job that was compressed: the calls, and the tensors that they became.
TEST(Why, ReadsWhatAPreloadedJobBecame) {
  nlohmann::json report = nlohmann::json::parse(kObserved);
  nlohmann::json& world = report["communicators"][0];
  world["compressed_calls"] = 87;
  world["group"] = nlohmann::json::parse(kCompressed);
  world["error"] = "rank 1 has ended";
  const Paths paths = ReadPaths(report.dump(), "*");
  ASSERT_EQ(paths.rows.size(), 4u);
  EXPECT_THAT(paths.title, HasSubstr("87 calls of a rank went through Terse"));
  EXPECT_EQ(paths.rows[0].path, "a tensor below");
  EXPECT_EQ(paths.rows[1].path, "exact");
  EXPECT_EQ(paths.rows[2].name, "MPI_COMM_WORLD a");
  EXPECT_EQ(paths.rows[2].path, "topk by all_gather");
  EXPECT_EQ(paths.rows[2].notes.size(), 2u);
  EXPECT_EQ(paths.notes.front(), "MPI_COMM_WORLD: rank 1 has ended");
}

TEST(Why, RefusesWhatIsNoReport) {
  for (const char* text : {"", "{", "[]", "1", "{}", R"({"communicators": 3})", R"({"tensors": [{}]})",
                           R"({"method": 1, "tensors": []})"}) {
    EXPECT_THROW((void)ReadPaths(text, "*"), std::exception) << text;
  }
}

}  // namespace
}  // namespace terse::cli
