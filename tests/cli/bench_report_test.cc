// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace terse::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

BenchResult Example() {
  BenchResult result;
  result.name = "topk 1 %";
  result.settings = {{"compressor", "topk"}, {"topk.density", "0.01"}};
  result.transport = "mpi_openmpi";
  result.method = "allreduce";
  result.compressor = "topk";
  result.codec = "topk";
  result.exchange = "all-gather";
  result.reason = "compressor";
  result.world_size = 4;
  result.elements = 25'600'000;
  result.dense_ms = 300;
  result.terse_ms = 40;
  result.bytes_sent = 1'536'000;
  result.ring_bytes = 153'600'000;
  result.relative_error = 0.5;
  return result;
}

TEST(FormatCount, UsesPowersOfTen) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(840), "840");
  EXPECT_EQ(FormatCount(999.97), "1 k");
  EXPECT_EQ(FormatCount(16'000), "16 k");
  EXPECT_EQ(FormatCount(25'600'000), "25.6 M");
  EXPECT_EQ(FormatBytes(102'400'000), "102.4 MB");
  EXPECT_EQ(FormatBytes(12), "12 B");
}

TEST(FormatTable, AlignsItsColumns) {
  BenchResult small = Example();
  small.name = "a case with a long name";
  small.elements = 16'000;
  small.relative_error.reset();
  const std::string table = FormatTable({Example(), small}, {});
  EXPECT_THAT(table, HasSubstr("7.50 x"));
  EXPECT_THAT(table, HasSubstr("100.0 x"));
  EXPECT_THAT(table, HasSubstr("4 ranks"));
  std::istringstream lines(table);
  std::string line;
  std::getline(lines, line);
  std::getline(lines, line);
  size_t width = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(std::getline(lines, line));
    if (i == 0) width = line.size();
    EXPECT_EQ(line.size(), width) << line;
  }
}

TEST(FormatTable, SaysWhatWentDenseUnasked) {
  BenchResult dense = Example();
  dense.codec = "none";
  dense.exchange = "dense";
  dense.reason = "below min_elements (1000 < 4096)";
  EXPECT_THAT(FormatTable({dense}, {}), HasSubstr("below min_elements (1000 < 4096)"));
  dense.compressor = "none";
  EXPECT_THAT(FormatTable({dense}, {}), Not(HasSubstr("note:")));
}

TEST(FormatJson, HasTheDocumentedFields) {
  BenchOptions options;
  options.repeat = 9;
  const nlohmann::json json = nlohmann::json::parse(FormatJson({Example()}, options));
  EXPECT_EQ(json.at("transport"), "mpi_openmpi");
  EXPECT_EQ(json.at("world_size"), 4);
  EXPECT_EQ(json.at("repeat"), 9);
  const nlohmann::json& row = json.at("results").at(0);
  EXPECT_EQ(row.at("case"), "topk 1 %");
  EXPECT_EQ(row.at("settings").at("topk.density"), "0.01");
  EXPECT_EQ(row.at("speedup"), 7.5);
  EXPECT_EQ(row.at("ratio"), 100.0);
  EXPECT_EQ(row.at("relative_error"), 0.5);
  for (const char* field :
       {"method", "compressor", "elements", "codec", "exchange", "reason", "dense_ms", "terse_ms",
        "encode_ms", "exchange_ms", "decode_ms", "bytes_sent_per_rank", "dense_ring_bytes"}) {
    EXPECT_TRUE(row.contains(field)) << field;
  }
}

TEST(FormatJson, WhatIsUnknownIsNull) {
  BenchResult alone = Example();
  alone.world_size = 1;
  alone.bytes_sent = 0;
  alone.relative_error.reset();
  const nlohmann::json row = nlohmann::json::parse(FormatJson({alone}, {})).at("results").at(0);
  EXPECT_TRUE(row.at("ratio").is_null());
  EXPECT_TRUE(row.at("relative_error").is_null());
}

}  // namespace
}  // namespace terse::cli
