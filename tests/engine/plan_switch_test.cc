// SPDX-License-Identifier: Apache-2.0
//
// Plans change while a job runs: nothing of a gradient is lost, ranks that disagree say so, and a plan that
// does not fit changes nothing.
#include <cmath>
#include <mutex>
#include <random>

#include "gmock/gmock.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::HasSubstr;

constexpr size_t kN = 700;

wire::PlanRow Dense() {
  wire::PlanRow row;
  row.codec = wire::Codec::kNone;
  row.exchange = wire::Exchange::kDense;
  row.error_feedback = false;
  return row;
}

wire::PlanRow Compressed(wire::Codec codec) {
  wire::PlanRow row;
  row.codec = codec;
  row.exchange = codec == wire::Codec::kTopK       ? wire::Exchange::kAllGather
                 : codec == wire::Codec::kPowerSgd ? wire::Exchange::kLowRank
                                                   : wire::Exchange::kScatterReduceAllGather;
  if (codec == wire::Codec::kOneBit) row.params.block = 0;
  return row;
}

wire::Plan PlanOf(uint32_t version, uint64_t step, std::vector<wire::PlanRow> rows) {
  for (size_t i = 0; i < rows.size(); ++i) rows[i].tensor = static_cast<uint32_t>(i);
  return {.version = version, .activation_step = step, .rows = std::move(rows)};
}

// Any codec with any of its parameters, or dense.
wire::PlanRow RandomRow(wire::Method method, std::mt19937* random) {
  const auto below = [random](uint32_t n) { return static_cast<uint32_t>((*random)() % n); };
  if (below(4) == 0) return Dense();
  std::vector<wire::Codec> codecs = {wire::Codec::kTopK, wire::Codec::kOneBit, wire::Codec::kQuantize,
                                     wire::Codec::kFp16, wire::Codec::kBf16,   wire::Codec::kPowerSgd};
  if (method == wire::Method::kDgc) codecs = {wire::Codec::kTopK};
  wire::PlanRow row = Compressed(codecs[below(static_cast<uint32_t>(codecs.size()))]);
  row.params.density = 0.02 * (1 + below(10));
  row.params.index = below(2) == 0 ? wire::IndexCoding::kU32 : wire::IndexCoding::kRice;
  row.params.bits = 2 + below(7);
  row.params.block = row.codec == wire::Codec::kOneBit ? 64 * below(3) : 64 << below(4);
  row.params.rounding = below(2) == 0 ? wire::Rounding::kNearest : wire::Rounding::kStochastic;
  row.params.span = static_cast<wire::QuantizeSpan>(below(3));
  if (row.codec == wire::Codec::kQuantize && wire::QuantizeErrorGain(row.params) > 1) row.params.bits = 8;
  row.params.selection = below(2) == 0 ? wire::SelectionRule::kExact : wire::SelectionRule::kSampled;
  row.params.values = static_cast<wire::ValueFormat>(below(3));
  row.params.rank = 1 + below(4);
  row.params.error = below(2) == 0 ? wire::LowRankError::kLocal : wire::LowRankError::kAveraged;
  row.params.scale = below(2) == 0 ? wire::ScaleNorm::kL2 : wire::ScaleNorm::kL1;
  return row;
}

// Registers one tensor, runs 60 steps of random gradients under plans that change at random, some steps
// skipped, some clipped; drains what waits with dense steps; and gives how far the sum of what was applied is
// from the sum of the reduced gradients, relative to it.
double LostUnderRandomPlans(int ranks, const std::string& reduce, uint32_t seed) {
  std::vector<double> applied(kN);
  std::mutex mutex;
  std::vector<double> expected(kN);
  const double weight = reduce == "mean" ? 1.0 / ranks : 1.0;
  RunRanks(ranks, TestConfig({{"reduce", reduce}}), [&](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {28, 25});
    ASSERT_TRUE(id.ok()) << id.status();
    std::mt19937 shared(seed);
    std::mt19937 own(seed * 100 + static_cast<uint32_t>(engine.rank()) + 1);
    std::normal_distribution<float> normal;
    std::vector<float> gradient(kN);
    std::vector<float> out(kN);
    uint32_t version = 0;
    const auto exchange = [&](double part) {
      const absl::Status status =
          engine.Allreduce({{.tensor = *id, .send = gradient.data(), .recv = out.data()}});
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_TRUE(engine.Step(part).ok());
      for (size_t i = 0; engine.rank() == 0 && i < kN; ++i) applied[i] += part * static_cast<double>(out[i]);
    };
    for (int step = 0; step < 60; ++step) {
      if (shared() % 3 == 0) {
        const wire::PlanRow row = RandomRow(wire::Method::kAllreduce, &shared);
        const absl::Status status = engine.Adopt(PlanOf(++version, engine.step(), {row}));
        ASSERT_TRUE(status.ok()) << status;
      }
      for (size_t i = 0; i < kN; ++i) gradient[i] = std::ldexp(normal(own), static_cast<int>(i % 7));
      const uint32_t fate = static_cast<uint32_t>(shared() % 5);
      const double part = fate == 0 ? 0.0 : fate == 1 ? 0.5 : 1.0;
      exchange(part);
      // A dense exchange has no memory: what was not applied of its gradient is gone, as it is without us.
      const double kept = engine.row(*id).codec == wire::Codec::kNone ? part : 1.0;
      const std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = 0; i < kN; ++i) expected[i] += weight * kept * static_cast<double>(gradient[i]);
    }
    ASSERT_TRUE(engine.Adopt(PlanOf(++version, engine.step(), {Dense()})).ok());
    std::fill(gradient.begin(), gradient.end(), 0.0f);
    for (int step = 0; step < 1200; ++step) exchange(1.0);
  });
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < kN; ++i) {
    difference += (applied[i] - expected[i]) * (applied[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

TEST(PlanSwitch, RandomPlansAndSkippedStepsLoseNothing) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    EXPECT_LT(LostUnderRandomPlans(1 + static_cast<int>(seed % 4), "mean", seed), 1e-4) << seed;
  }
  EXPECT_LT(LostUnderRandomPlans(3, "sum", 9), 1e-4);
}

// DGC's memory goes along: without masking the sum of all updates is that of momentum SGD, however the plan
// changes between dense and top-k.
TEST(PlanSwitch, DgcKeepsItsMomentumAndItsRest) {
  constexpr int kRanks = 2;
  const wire::Config config =
      TestConfig({{"method", "dgc"}, {"dgc.masking", "false"}, {"dgc.momentum", "0.5"}});
  RunRanks(kRanks, config, [](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {kN});
    ASSERT_TRUE(id.ok()) << id.status();
    std::mt19937 shared(5);
    std::normal_distribution<float> normal;
    std::vector<float> gradient(kN);
    std::vector<float> out(kN);
    std::vector<double> momentum(kN);
    std::vector<double> expected(kN);
    std::vector<double> applied(kN);
    uint32_t version = 0;
    for (int step = 0; step < 1200; ++step) {
      if (step < 60 && shared() % 3 == 0) {
        ASSERT_TRUE(
            engine.Adopt(PlanOf(++version, engine.step(), {RandomRow(wire::Method::kDgc, &shared)})).ok());
      } else if (step == 60) {
        ASSERT_TRUE(engine.Adopt(PlanOf(++version, engine.step(), {Dense()})).ok());
      }
      // Equal on both ranks, so that one momentum describes both.
      for (float& g : gradient) g = step < 60 ? normal(shared) : 0.0f;
      ASSERT_TRUE(engine.Allreduce({{.tensor = *id, .send = gradient.data(), .recv = out.data()}}).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
      for (size_t i = 0; i < kN; ++i) {
        momentum[i] = 0.5 * momentum[i] + static_cast<double>(gradient[i]);
        expected[i] += momentum[i];
        applied[i] += static_cast<double>(out[i]);
      }
    }
    for (size_t i = 0; i < kN; ++i) ASSERT_NEAR(applied[i], expected[i], 1e-3) << i;
  });
}

TEST(PlanSwitch, RanksWithOtherPlansSaySo) {
  RunRanks(2, TestConfig({}), [](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kN}).ok());
    wire::PlanRow row = Compressed(wire::Codec::kQuantize);
    row.params.bits = engine.rank() == 0 ? 4 : 5;
    ASSERT_TRUE(engine.Adopt(PlanOf(1, 0, {row})).ok());
    std::vector<float> gradient(kN, 1.0f);
    const absl::Status status =
        engine.Allreduce({{.tensor = 0, .send = gradient.data(), .recv = gradient.data()}});
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("plan of 'w'"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("bits 5"));
  });
}

TEST(PlanSwitch, APlanThatDoesNotFitChangesNothing) {
  RunRanks(1, TestConfig({{"compressor", "quantize"}}), [](Engine& engine) {
    ASSERT_TRUE(engine.Register("a", wire::DType::kFloat32, {kN}).ok());
    ASSERT_TRUE(engine.Register("b", wire::DType::kFloat32, {kN}).ok());
    const wire::PlanRow good = Compressed(wire::Codec::kQuantize);
    wire::PlanRow bits = good;
    bits.params.bits = 9;
    wire::PlanRow diverging = good;
    diverging.params.bits = 1;
    diverging.params.rounding = wire::Rounding::kStochastic;
    wire::PlanRow exchange = good;
    exchange.exchange = wire::Exchange::kAllGather;
    wire::PlanRow feedback = good;
    feedback.error_feedback = false;
    wire::Plan order = PlanOf(1, 0, {good, good});
    std::swap(order.rows[0].tensor, order.rows[1].tensor);
    const std::pair<wire::Plan, const char*> cases[] = {
        {PlanOf(0, 0, {good, good}), "plan 0"},
        {PlanOf(1, 5, {good, good}), "for step 5"},
        {PlanOf(1, 0, {good}), "1 tensors"},
        {PlanOf(1, 0, {good, bits}), "bits"},
        {PlanOf(1, 0, {good, diverging}), "more than it encodes"},
        {PlanOf(1, 0, {good, exchange}), "does not go by"},
        {PlanOf(1, 0, {good, feedback}), "error feedback"},
        {order, "row 0 is of tensor 1"},
    };
    const wire::PlanRow before = engine.row(0);
    for (const auto& [plan, words] : cases) {
      const absl::Status status = engine.Adopt(plan);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << words;
      EXPECT_THAT(std::string(status.message()), HasSubstr(words));
      EXPECT_EQ(engine.row(0), before);
    }
    ASSERT_TRUE(engine.Adopt(PlanOf(1, 0, {good, good})).ok());
    EXPECT_FALSE(engine.Adopt(PlanOf(1, 0, {good, good})).ok()) << "a version is adopted once";
  });
  RunRanks(1, TestConfig({{"method", "dgc"}}), [](Engine& engine) {
    ASSERT_TRUE(engine.Register("a", wire::DType::kFloat32, {kN}).ok());
    const absl::Status status = engine.Adopt(PlanOf(1, 0, {Compressed(wire::Codec::kQuantize)}));
    EXPECT_THAT(std::string(status.message()), HasSubstr("does not go with method dgc"));
  });
}

}  // namespace
}  // namespace terse::engine
