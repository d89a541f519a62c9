// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/error_feedback.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/methods/simulation.h"

namespace terse {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

wire::Config Allreduce() {
  wire::Config config;
  config.method = wire::Method::kAllreduce;
  return config;
}

TEST(ErrorFeedback, SendsTheGradientItselfWithoutACopy) {
  auto method = MakeTensorMethod(Allreduce(), {.elements = 2});
  const Vector gradient = {1, kNan};
  bool nonfinite = false;
  for (const bool dense : {false, true}) {
    EXPECT_EQ(method->Before(dense, gradient, {}, &nonfinite).data(), gradient.data());
  }
  EXPECT_FALSE(nonfinite) << "the codec reads the gradient, not the method";
}

TEST(ErrorFeedback, DenseTensorsKeepNoMemory) {
  SimulatedRanks ranks(Allreduce(), {.elements = 3, .dense = true}, 2);
  ranks.ExchangeDense({{1, 2, 3}, {3, 2, 1}});
  EXPECT_THAT(ranks.outs, Each(ElementsAre(2, 2, 2)));
  EXPECT_THAT(ranks.method(0).residual(), IsEmpty());
  EXPECT_THAT(ranks.StateNames(0), IsEmpty());
}

TEST(ErrorFeedback, ResidualKeepsWhatWasNotSent) {
  SimulatedRanks ranks(Allreduce(), {.elements = 3}, 1);
  EXPECT_THAT(ranks.StateNames(0), ElementsAre("residual"));
  ranks.ExchangeCompressed({{1, -4, 2}}, TopK(1));
  ranks.Step(1);
  EXPECT_THAT(ranks.outs[0], ElementsAre(0, -4, 0));
  EXPECT_THAT(ranks.State(0, "residual"), ElementsAre(1, 0, 2));
  ranks.ExchangeCompressed({{1, 0, 1}}, TopK(1));
  EXPECT_THAT(ranks.outs[0], ElementsAre(0, 0, 3));
  EXPECT_THAT(ranks.State(0, "residual"), ElementsAre(2, 0, 0));
}

TEST(ErrorFeedback, WithoutItNothingIsKept) {
  SimulatedRanks ranks(Allreduce(), {.elements = 3, .error_feedback = false}, 1);
  bool nonfinite = false;
  const Vector gradient = {1, 2, 3};
  ranks.method(0).Before(false, gradient, {}, &nonfinite);
  EXPECT_THAT(ranks.method(0).residual(), IsEmpty());
  EXPECT_THAT(ranks.StateNames(0), IsEmpty());
}

TEST(ErrorFeedback, TheResidualOutlivesADenseStep) {
  SimulatedRanks ranks(Allreduce(), {.elements = 2}, 1);
  ranks.ExchangeCompressed({{1, 2}}, TopK(1));
  ranks.Step(1);
  ranks.ExchangeDense({{5, 5}});
  ranks.Step(1);
  EXPECT_THAT(ranks.outs[0], ElementsAre(5, 5));
  EXPECT_THAT(ranks.State(0, "residual"), ElementsAre(1, 0));
}

TEST(ErrorFeedback, DenseResultsThatAreNotFiniteAreReportedAndPassedOn) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {kNan, kInf, -kInf}) {
    for (size_t at = 0; at < 9; ++at) {
      SimulatedRanks ranks(Allreduce(), {.elements = 9, .dense = true}, 2);
      std::vector<Vector> gradients(2, Vector(9, std::numeric_limits<float>::max() / 4));
      ranks.ExchangeDense(gradients);
      EXPECT_TRUE(ranks.finite);
      gradients[1][at] = bad;
      ranks.ExchangeDense(gradients);
      EXPECT_FALSE(ranks.finite);
      EXPECT_FALSE(std::isfinite(ranks.outs[0][at]));
    }
  }
}

TEST(ErrorFeedback, DensityWarmUp) {
  wire::Config config = Allreduce();
  config.topk.warmup_steps = 4;
  config.topk.warmup_density = {0.5, 0.125};
  auto method = MakeTensorMethod(config, {.elements = 2});
  for (const double planned : {0.01, 0.25}) {
    wire::CodecParams params;
    params.density = planned;
    EXPECT_EQ(method->Params(0, params).density, 0.5);
    EXPECT_EQ(method->Params(1, params).density, 0.5);
    EXPECT_EQ(method->Params(2, params).density, planned == 0.01 ? 0.125 : 0.25) << "never below the plan";
    EXPECT_EQ(method->Params(4, params).density, planned);
  }
  wire::CodecParams none;
  none.density = 0.03;
  EXPECT_EQ(MakeTensorMethod(Allreduce(), {.elements = 2})->Params(0, none).density, 0.03)
      << "off by default";
}

TEST(ErrorFeedback, ReturnsWhatWasNotApplied) {
  auto method = MakeTensorMethod(Allreduce(), {.elements = 1});
  EXPECT_EQ(method->ReturnFraction(0), 1);
  EXPECT_EQ(method->ReturnFraction(0.75), 0.25);
  EXPECT_EQ(method->ReturnFraction(1), 0);
}

// Nothing of a gradient is lost by steps that are skipped or clipped: what reached the parameters plus
// what waits is what came in. Integers and quarters, so that the sums are exact.
TEST(ErrorFeedback, SkippedAndClippedStepsConserveTheGradient) {
  constexpr size_t kElements = 40;
  constexpr size_t kWorld = 4;
  SimulatedRanks ranks(Allreduce(), {.elements = kElements}, kWorld);
  RandomGradients random(kWorld, kElements, 3);
  std::vector<double> given(kElements);
  std::vector<double> applied(kElements);
  for (int step = 0; step < 300; ++step) {
    const std::vector<Vector> gradients = random.NextIntegers();
    ranks.ExchangeCompressed(gradients, TopK(5));
    // A clip to 3/4 takes two more bits, so there are few of them; skips throughout.
    const double part = step < 6 && step % 2 == 0 ? 0.75 : (random.Uniform() < -0.4f ? 0.0 : 1.0);
    for (size_t i = 0; i < kElements; ++i) {
      for (const Vector& gradient : gradients) given[i] += gradient[i] / double{kWorld};
      applied[i] += part * ranks.outs[0][i];
    }
    ranks.Step(part);
    const std::vector<double> waiting = ranks.MeanState("residual");
    for (size_t i = 0; i < kElements; ++i) ASSERT_EQ(applied[i] + waiting[i], given[i]) << step << " " << i;
  }
}

}  // namespace
}  // namespace terse
