// SPDX-License-Identifier: Apache-2.0
//
// How the entries of topk and dgc travel.
#include "runtime/controller/policy/static_policy.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace terse::policy {
namespace {

using ::testing::HasSubstr;
using wire::Exchange;

wire::Config TopK(double density) {
  wire::Config config;
  config.compressor = wire::Codec::kTopK;
  config.topk.density = density;
  return config;
}

wire::PlanRow RowOf(const wire::Config& config, int ranks, uint64_t elements = 25'600'000) {
  return StaticRow(config, ranks, {.id = 3, .name = "w", .elements = elements, .shape = {}});
}

TEST(SparseChoice, SmallWorldsGoByAllGatherAndLargeOnesBySparseReduce) {
  wire::Config dgc;
  dgc.method = wire::Method::kDgc;
  for (const wire::Config& config : {TopK(0.01), dgc}) {
    for (const int ranks : {2, 3, 4, 8}) {
      const wire::PlanRow row = RowOf(config, ranks);
      EXPECT_EQ(row.exchange, Exchange::kAllGather) << ranks;
      EXPECT_THAT(row.reason, HasSubstr("configured; all-gather "));
      EXPECT_THAT(row.reason, HasSubstr("sparse-reduce "));
    }
    const wire::PlanRow row = RowOf(config, 512);
    EXPECT_EQ(row.codec, wire::Codec::kTopK);
    EXPECT_EQ(row.exchange, Exchange::kSparseReduce);
    EXPECT_THAT(row.reason, HasSubstr("configured; sparse-reduce "));
    EXPECT_THAT(row.reason, HasSubstr("all-gather "));
  }
}

TEST(SparseChoice, TheNetworkHasASay) {
  wire::Config config = TopK(0.01);
  EXPECT_EQ(RowOf(config, 48).exchange, Exchange::kSparseReduce) << RowOf(config, 48).reason;
  config.network.gbit = 100;  // what is left are kernels, which both have
  EXPECT_EQ(RowOf(config, 48).exchange, Exchange::kAllGather) << RowOf(config, 48).reason;
  config.network.gbit = 0.1;
  config.network.latency_us = 1e6;
  EXPECT_EQ(RowOf(config, 48).exchange, Exchange::kAllGather) << "three rounds against one";
}

TEST(SparseChoice, AConfiguredExchangeIsTaken) {
  wire::Config config = TopK(0.9);
  config.topk.exchange = wire::SparseExchange::kSparseReduce;
  EXPECT_EQ(RowOf(config, 2).exchange, Exchange::kSparseReduce);
  EXPECT_EQ(RowOf(config, 2).reason, "configured");
  config.topk.exchange = wire::SparseExchange::kAllGather;
  EXPECT_EQ(RowOf(config, 1000).exchange, Exchange::kAllGather);
  EXPECT_EQ(RowOf(config, 1).exchange, Exchange::kDense) << "alone";
}

TEST(SparseChoice, DenseWhereEntriesCostMoreBytesAndTime) {
  const wire::PlanRow dense = RowOf(TopK(1), 4);
  EXPECT_EQ(dense.codec, wire::Codec::kNone);
  EXPECT_EQ(dense.exchange, Exchange::kDense);
  EXPECT_FALSE(dense.error_feedback);
  EXPECT_EQ(dense.tensor, 3u);
  EXPECT_THAT(dense.reason, HasSubstr("dense is faster at density 1: "));
  wire::Config deterministic = TopK(1);
  deterministic.dense_deterministic = true;
  EXPECT_EQ(RowOf(deterministic, 4).exchange, Exchange::kDeterministicDense);
  for (const double density : {0.1, 0.25}) {
    for (const int ranks : {2, 4, 8, 64}) {
      EXPECT_EQ(RowOf(TopK(density), ranks).codec, wire::Codec::kTopK) << density << ", " << ranks;
    }
  }
  EXPECT_EQ(RowOf(TopK(0.01), 8, 10).codec, wire::Codec::kNone) << "min_elements";
  wire::Config small = TopK(0.01);
  small.min_elements = 0;
  EXPECT_EQ(RowOf(small, 8, 10).codec, wire::Codec::kTopK) << "headers are no reason";
}

}  // namespace
}  // namespace terse::policy
