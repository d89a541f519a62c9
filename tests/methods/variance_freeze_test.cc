// SPDX-License-Identifier: Apache-2.0
//
// When the variance is frozen: by number, and by itself under gradients that stay, grow, shrink and settle.
#include "compressors/methods/variance_freeze.h"

#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace terse {
namespace {

using ::testing::Eq;
using ::testing::Optional;

constexpr int kMemory = 100;  // steps, with beta2 = 0.99
constexpr int kSteps = 3000;

wire::Config::Adam Adam(int64_t freeze, int64_t lr_warmup_steps = 0) {
  wire::Config::Adam adam;
  adam.beta2 = 0.99;
  adam.freeze = freeze;
  adam.lr_warmup_steps = lr_warmup_steps;
  return adam;
}
wire::Config::Adam Automatic(int64_t lr_warmup_steps = 0) {
  return Adam(wire::Config::Adam::kAuto, lr_warmup_steps);
}

// g^2 of step t = 1, 2, ...
using Squares = std::function<double(int)>;

// After which step the variance of such a gradient is frozen, if ever.
std::optional<int> FrozenAfter(const wire::Config::Adam& config, const Squares& squares) {
  VarianceFreeze freeze(config);
  double v = 0;
  for (int t = 1; t <= kSteps; ++t) {
    v = 0.99 * v + 0.01 * squares(t);
    const double norm = v / (1 - std::pow(0.99, t));
    if (freeze.Advance(norm, freeze.Settled(norm), t)) {
      EXPECT_EQ(freeze.state().frozen_at, t);
      return t;
    }
  }
  return std::nullopt;
}

// The test without bias correction that looks only downwards.
std::optional<int> OneSidedUncorrected(const Squares& squares) {
  std::vector<double> v = {0};
  for (int t = 1; t <= kSteps; ++t) {
    v.push_back(0.99 * v.back() + 0.01 * squares(t));
    if (t > kMemory && v[t] >= 0.96 * v[t - kMemory]) return t;
  }
  return std::nullopt;
}

const Squares kSteady = [](int) { return 4.0; };
const Squares kGrowing = [](int t) { return std::pow(1.001, t); };
const Squares kShrinking = [](int t) { return std::pow(0.999, t); };

TEST(VarianceFreeze, AfterAFixedNumberOfSteps) {
  EXPECT_THAT(FrozenAfter(Adam(1), kGrowing), Optional(1));
  EXPECT_THAT(FrozenAfter(Adam(250), kGrowing), Optional(250));
}

TEST(VarianceFreeze, ASteadyGradientHasSettledAsSoonAsThereIsSomethingToCompareWith) {
  EXPECT_THAT(FrozenAfter(Automatic(), kSteady), Optional(kMemory + 1));
}

TEST(VarianceFreeze, NotWhileGradientsGrowOrShrink) {
  EXPECT_THAT(FrozenAfter(Automatic(), kGrowing), Eq(std::nullopt));
  EXPECT_THAT(FrozenAfter(Automatic(), kShrinking), Eq(std::nullopt));
}

TEST(VarianceFreeze, TheUncorrectedOneSidedTestFiresAtOnceWhateverTheGradientsDo) {
  EXPECT_THAT(OneSidedUncorrected(kSteady), Optional(kMemory + 1));
  EXPECT_THAT(OneSidedUncorrected(kGrowing), Optional(kMemory + 1));
  EXPECT_THAT(OneSidedUncorrected(kShrinking), Optional(kMemory + 1));
}

TEST(VarianceFreeze, WhenGradientsHaveSettled) {
  constexpr int kChangeEnds = 1000;
  for (const double per_step : {1.001, 0.999}) {
    const Squares settles = [&](int t) { return std::pow(per_step, std::min(t, kChangeEnds)); };
    const std::optional<int> frozen = FrozenAfter(Automatic(), settles);
    ASSERT_TRUE(frozen.has_value());
    EXPECT_GT(*frozen, kChangeEnds + kMemory / 2) << per_step;
    EXPECT_LT(*frozen, kChangeEnds + 2 * kMemory) << per_step;
  }
}

TEST(VarianceFreeze, NotDuringTheLearningRateWarmUp) {
  EXPECT_THAT(FrozenAfter(Automatic(50), kSteady), Optional(kMemory + 1));
  EXPECT_THAT(FrozenAfter(Automatic(700), kSteady), Optional(701));
}

TEST(VarianceFreeze, NotWithoutAnyGradientNorWithOneBeyondRange) {
  EXPECT_THAT(FrozenAfter(Automatic(), [](int) { return 0.0; }), Eq(std::nullopt));
  EXPECT_THAT(FrozenAfter(Automatic(), [](int) { return std::numeric_limits<double>::infinity(); }),
              Eq(std::nullopt));
}

TEST(VarianceFreeze, TheDistanceIsTheMemoryOfTheVariance) {
  wire::Config::Adam adam;
  EXPECT_EQ(VarianceFreeze::Memory(adam), 1000u);
  adam.beta2 = 0;
  EXPECT_EQ(VarianceFreeze::Memory(adam), 1u);
}

TEST(VarianceFreeze, TheCallersDecisionCounts) {
  VarianceFreeze freeze(Adam(3));
  EXPECT_TRUE(freeze.Advance(1, true, 17));
  EXPECT_TRUE(freeze.frozen());
  EXPECT_EQ(freeze.state().frozen_at, 17u);
  EXPECT_FALSE(freeze.Advance(1, true, 18)) << "frozen already";
  VarianceFreeze other(Adam(1));
  EXPECT_TRUE(other.Settled(1));
  EXPECT_FALSE(other.Advance(1, false, 1));
}

// A warm-up that begins again has as many steps as the first, after one that hands the errors on.
TEST(VarianceFreeze, Restarts) {
  for (const wire::Config::Adam& config : {Adam(120), Automatic(110)}) {
    VarianceFreeze freeze(config);
    const auto run = [&] {
      int steps = 0;
      while (!freeze.frozen()) freeze.Advance(2, freeze.Settled(2), ++steps);
      return steps;
    };
    const int first = run();
    freeze.Restart();
    EXPECT_EQ(run(), first + 1);
    freeze.Restart();
    freeze.Restart();
    EXPECT_EQ(run(), first + 1);
    freeze.Restart();
    for (int i = 0; i < 30; ++i) freeze.Advance(2, freeze.Settled(2), 1);
    freeze.Restart();
    EXPECT_EQ(run(), first) << "was not frozen";
  }
}

TEST(VarianceFreeze, StateIsComplete) {
  for (const int saved_after : {0, 60, 99, 100, 150, 400}) {
    VarianceFreeze first(Automatic(300));
    VarianceFreeze second(Automatic(300));
    for (int t = 1; t <= 500; ++t) {
      const double norm = 1 + 0.3 * std::sin(0.05 * t);
      const bool settled = first.Settled(norm);
      if (t > saved_after) {
        ASSERT_EQ(second.Settled(norm), settled);
        second.Advance(norm, settled, t);
      }
      first.Advance(norm, settled, t);
      if (t == saved_after) second.Restore(first.state());
    }
    EXPECT_EQ(second.state(), first.state()) << saved_after;
  }
}

}  // namespace
}  // namespace terse
