// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/cost_model.h"

#include <algorithm>
#include <initializer_list>

#include "gtest/gtest.h"

namespace terse::policy {
namespace {

constexpr double kN = 25.6e6;

// 1 Gbit/s.
Machine Gigabit() { return {}; }

Entries U32(double density) {
  wire::CodecParams params;
  params.density = density;
  return EntriesOf(params);
}

// The formulas of reference works, in words of 4 bytes: a ring sends 2 n (N - 1) / N, an all-gather of k
// entries 2 k (N - 1), sparse reduce at most 6 k (N - 1) / N.
TEST(CostModel, BytesAreThoseOfTheSchedules) {
  const double k = 0.001 * kN;
  for (const double ranks : {2.0, 4.0, 64.0}) {
    const Workload load{.elements = kN, .ranks = ranks};
    EXPECT_DOUBLE_EQ(DenseCost(Gigabit(), load).bytes, 4 * 2 * kN * (ranks - 1) / ranks);
    const Cost gather = AllGatherCost(Gigabit(), load, kDgcKernels, U32(0.001));
    EXPECT_NEAR(gather.bytes - gather.overhead, 4 * 2 * k * (ranks - 1), 1);
    const Cost sparse = SparseReduceCost(Gigabit(), load, kDgcKernels, U32(0.001));
    EXPECT_NEAR(sparse.bytes - sparse.overhead, 4 * 6 * k * (ranks - 1) / ranks, 1);
    const Cost bits = ScatterReduceCost(Gigabit(), load, kOneBitKernels, 1);
    EXPECT_NEAR(bits.bytes - bits.overhead, 2 * kN / 8 * (ranks - 1) / ranks, 1);
  }
}

TEST(CostModel, RiceCodedEntriesAreThoseOfTheCodec) {
  wire::CodecParams params;
  params.index = wire::IndexCoding::kRice;
  params.density = 0.001;
  EXPECT_NEAR(EntriesOf(params).bytes, 5.44, 0.02);  // topk_test, oracle 7
  params.values = wire::ValueFormat::kFp16;
  EXPECT_NEAR(EntriesOf(params).bytes, 3.44, 0.02);
  EXPECT_NEAR(EntriesOf(params).sum_bytes, 5.44, 0.02);
  params.density = 1;
  EXPECT_LT(EntriesOf(params).bytes, 2.3);
}

TEST(CostModel, AnIdealGigabitRing) {
  // reference: performance.md section 3, "ideal ring" of 102.4 MB.
  EXPECT_NEAR(DenseCost(Gigabit(), {.elements = kN, .ranks = 4}).seconds, 1.284, 0.1);
  EXPECT_NEAR(DenseCost(Gigabit(), {.elements = kN, .ranks = 2}).seconds, 0.856, 0.1);
}

TEST(CostModel, WhatGrowsWithRanksDoes) {
  double gather = 0;
  double sparse_bytes = 0;
  for (const double ranks : {4.0, 16.0, 64.0, 256.0}) {
    const Workload load{.elements = kN, .ranks = ranks};
    const Cost now = AllGatherCost(Gigabit(), load, kTopKKernels, U32(0.01));
    EXPECT_GT(now.seconds, 2 * gather);
    gather = now.seconds - 0.1;
    const Cost sparse = SparseReduceCost(Gigabit(), load, kTopKKernels, U32(0.01));
    const double bytes = sparse.bytes - sparse.overhead;
    EXPECT_GT(bytes, sparse_bytes);
    EXPECT_LT(bytes, 4 * 6 * 0.01 * kN) << "O(k), whatever the number of ranks";
    sparse_bytes = bytes;
  }
}

// Of a large tensor most entries are on the wire while the rest is looked at; of a small one none.
TEST(CostModel, WhatIsToldEarlyTravelsWhileTheRestIsLookedAt) {
  Machine slow = Gigabit();
  slow.bytes_per_s /= 10;
  for (const double elements : {kN, 1e6}) {
    const Workload load{.elements = elements, .ranks = 4};
    const Cost cost = AllGatherCost(slow, load, kDgcKernels, U32(0.001));
    const double copy = 4 * elements / slow.memcpy_bytes_per_s;
    const double encode = kDgcKernels.encode * copy;
    const double wire = cost.bytes / slow.bytes_per_s;
    const double one_by_one = encode + wire + kDgcKernels.decode * copy;
    if (elements == kN) {
      EXPECT_LT(cost.seconds, one_by_one - 0.6 * std::min(encode, wire));
      EXPECT_GT(cost.seconds, std::max(encode, wire));
    } else {
      EXPECT_GT(cost.seconds, one_by_one);
    }
  }
}

TEST(CostModel, LatencyDecidesOverSmallTensors) {
  const Workload small{.elements = 4096, .ranks = 8};
  EXPECT_LT(AllGatherCost(Gigabit(), small, kTopKKernels, U32(0.01)).seconds,
            SparseReduceCost(Gigabit(), small, kTopKKernels, U32(0.01)).seconds);
  Machine slow = Gigabit();
  slow.latency_s *= 10;
  EXPECT_GT(LowRankCost(slow, small, kPowerSgdKernels, 4).seconds,
            LowRankCost(Gigabit(), small, kPowerSgdKernels, 4).seconds + 0.001);
}

}  // namespace
}  // namespace terse::policy
