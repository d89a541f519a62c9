// SPDX-License-Identifier: Apache-2.0
//
// Plans change while a job runs: nothing of a gradient is lost, ranks that disagree say so, and a plan that
// does not fit changes nothing.
#include <cmath>
#include <mutex>
#include <random>

#include "gmock/gmock.h"
#include "tests/engine/plans.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::HasSubstr;

constexpr size_t kN = 700;

// Registers one tensor, runs 60 steps of random gradients under plans that change at random, some steps
// exact, some skipped, some clipped; drains what waits with dense steps; and gives how far the sum of what
// was applied is from the sum of the reduced gradients, relative to it.
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
      const bool exact = shared() % 4 == 0;
      ASSERT_TRUE(engine.SetExact(exact).ok());
      const uint32_t fate = static_cast<uint32_t>(shared() % 5);
      const double part = fate == 0 ? 0.0 : fate == 1 ? 0.5 : 1.0;
      exchange(part);
      // A dense exchange has no memory: what was not applied of its gradient is gone, as it is without us.
      const double kept = exact || engine.row(*id).codec == wire::Codec::kNone ? part : 1.0;
      const std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = 0; i < kN; ++i) expected[i] += weight * kept * static_cast<double>(gradient[i]);
    }
    // In the end either way to drain.
    if (seed % 2 == 0) {
      ASSERT_TRUE(engine.SetExact(true).ok());
    } else {
      ASSERT_TRUE(engine.SetExact(false).ok());
      ASSERT_TRUE(engine.Adopt(PlanOf(++version, engine.step(), {Dense()})).ok());
    }
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

TEST(PlanSwitch, RanksOfWhichOneIsExactSaySo) {
  RunRanks(2, TestConfig({{"compressor", "quantize"}}), [](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kN}).ok());
    ASSERT_TRUE(engine.SetExact(engine.rank() == 1).ok());
    std::vector<float> gradient(kN, 1.0f);
    const auto exchange = [&] {
      return engine.Allreduce({{.tensor = 0, .send = gradient.data(), .recv = gradient.data()}});
    };
    const absl::Status status = exchange();
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("exchanges: exact"));
    ASSERT_TRUE(engine.SetExact(true).ok());
    EXPECT_TRUE(exchange().ok());
    EXPECT_EQ(gradient[0], 1.0f);
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
}

// The other methods have a codec of their own: a plan may change its parameters, or make a tensor dense.
// (conservation_test runs all three methods under such plans.)
TEST(PlanSwitch, AMethodsOwnCodecIsNotReplaced) {
  for (const auto& [method, codec] :
       {std::pair("dgc", wire::Codec::kTopK), std::pair("onebit_adam", wire::Codec::kOneBit)}) {
    RunRanks(1, TestConfig({{"method", method}}), [method = method, own = codec](Engine& engine) {
      ASSERT_TRUE(engine.Register("a", wire::DType::kFloat32, {kN}).ok());
      uint32_t version = 0;
      for (const wire::Codec other : {wire::Codec::kFp16, wire::Codec::kBf16, wire::Codec::kTopK,
                                      wire::Codec::kOneBit, wire::Codec::kQuantize, wire::Codec::kPowerSgd}) {
        const absl::Status status = engine.Adopt(PlanOf(++version, 0, {Compressed(other)}));
        EXPECT_EQ(status.ok(), other == own) << status;
        if (other == own) continue;
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
        EXPECT_THAT(std::string(status.message()),
                    HasSubstr(std::string("does not go with method ") + method));
      }
      EXPECT_TRUE(engine.Adopt(PlanOf(++version, 0, {Dense()})).ok());
    });
  }
}

}  // namespace
}  // namespace terse::engine
