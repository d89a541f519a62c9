// SPDX-License-Identifier: Apache-2.0
//
// What DGC does to a rank's gradient before the momentum: clipping and local weight decay.
#include <cmath>
#include <limits>

#include "compressors/kernels/dispatch.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/methods/simulation.h"

namespace terse {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::Pointwise;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Without momentum what a method sends is the local gradient.
wire::Config Clipping(double clip, double momentum = 0, bool nesterov = false) {
  wire::Config config;
  config.method = wire::Method::kDgc;
  config.dgc.clip = clip;
  config.dgc.momentum = momentum;
  config.dgc.nesterov = nesterov;
  config.dgc.masking = false;
  return config;
}

wire::Config LocalDecay(double weight_decay, double momentum = 0, bool nesterov = false) {
  wire::Config config = Clipping(0, momentum, nesterov);
  config.dgc.weight_decay = weight_decay;
  config.dgc.decay = wire::DecayForm::kLocal;
  return config;
}

double Norm(const Vector& values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return std::sqrt(sum);
}

MATCHER_P(NearlyEqual, tolerance, "") { return std::fabs(std::get<0>(arg) - std::get<1>(arg)) <= tolerance; }

// Of the gradient divided by N, as the paper has it, at most threshold / sqrt(N) is left.
TEST(DgcClip, Oracle14TheScaledGradientIsWithinTheThresholdOverTheRootOfN) {
  constexpr size_t kElements = 5000;
  constexpr double kClip = 12;
  for (const bool dense : {false, true}) {
    for (const size_t world : {1, 2, 4, 16}) {
      SimulatedRanks ranks(Clipping(kClip), {.elements = kElements, .dense = dense}, world);
      std::vector<Vector> gradients = RandomGradients(world, kElements, 3).Next();  // of norm 41
      for (float& g : gradients[0]) g *= 0.125f;
      if (dense) {
        ranks.ExchangeDense(gradients);
      } else {
        ranks.ExchangeCompressed(gradients, TopK(3));
      }
      const double n = static_cast<double>(world);
      for (size_t rank = 0; rank < world; ++rank) {
        const Vector& sent = ranks.inputs[rank];
        const double before = Norm(gradients[rank]) / n;
        const double most = kClip / std::sqrt(n);
        EXPECT_NEAR(Norm(sent) / n, std::min(before, most), most * 1e-6);
        // The direction is the gradient's.
        const auto factor = static_cast<float>(std::min(1.0, most / before));
        for (size_t i = 0; i < kElements; ++i) EXPECT_THAT(sent[i], FloatEq(factor * gradients[rank][i]));
      }
      EXPECT_EQ(ranks.inputs[0], gradients[0]) << "short enough to be left alone, to the bit";
    }
  }
}

// Why the root of N: independent gradients that all reach the threshold have a mean of just its norm, and a
// sum that is reduced as such as well. In the worst case, all alike, the mean is sqrt(N) times longer.
TEST(DgcClip, IndependentGradientsAddUpToTheThreshold) {
  constexpr size_t kWorld = 4;
  for (const wire::Reduce reduce : {wire::Reduce::kMean, wire::Reduce::kSum}) {
    wire::Config config = Clipping(3);
    config.reduce = reduce;
    const float times = reduce == wire::Reduce::kMean ? 1.0f / kWorld : 1.0f;
    SimulatedRanks ranks(config, {.elements = kWorld}, kWorld);
    std::vector<Vector> orthogonal(kWorld, Vector(kWorld));
    for (size_t rank = 0; rank < kWorld; ++rank) orthogonal[rank][rank] = 1000;
    ranks.ExchangeCompressed(orthogonal, TopK(kWorld));
    Vector reduced(kWorld);
    for (const Vector& input : ranks.inputs) {
      for (size_t i = 0; i < kWorld; ++i) reduced[i] += times * input[i];
    }
    EXPECT_NEAR(Norm(reduced), 3, 1e-5);
    ranks.Step(1);

    ranks.ExchangeCompressed(std::vector<Vector>(kWorld, {1000, 0, 0, 0}), TopK(kWorld));
    EXPECT_NEAR(kWorld * times * Norm(ranks.inputs[0]), 3 * std::sqrt(double{kWorld}), 1e-5);
  }
}

// Paddle adds a g to v that is clipped, and one to u that is scaled otherwise.
TEST(DgcClip, NesterovTakesTheSameGradientTwice) {
  SimulatedRanks ranks(Clipping(5, 0.5, true), {.elements = 2}, 1);
  ranks.ExchangeCompressed({{30, 40}}, TopK(2));
  EXPECT_THAT(ranks.inputs[0], ElementsAre(FloatEq(4.5f), FloatEq(6)));  // (1 + m) {3, 4}
  EXPECT_THAT(ranks.State(0, "u"), ElementsAre(FloatEq(1.5f), FloatEq(2)));
}

// A tensor may go dense for a step, by plan or at density 1, without another gradient.
TEST(DgcClip, DenseStepsClipLikeCompressedOnes) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks dense(Clipping(2, 0.9, nesterov), {.elements = 30}, 4);
    SimulatedRanks compressed(Clipping(2, 0.9, nesterov), {.elements = 30}, 4);
    RandomGradients random(4, 30, 5);
    for (int step = 0; step < 20; ++step) {
      std::vector<Vector> gradients = random.Next();  // of norm 3.2; the threshold is 4
      for (float& g : gradients[static_cast<size_t>(step) % 4]) g *= 5;
      dense.ExchangeDense(gradients);
      compressed.ExchangeCompressed(gradients, TopK(30));
      EXPECT_EQ(dense.outs, compressed.outs);
      dense.Step(1);
      compressed.Step(1);
    }
  }
}

// An element that is not finite counts as 0, in the norm too.
TEST(DgcClip, NonfiniteElementsDoNotDisturbTheNorm) {
  for (const float bad : {kNan, kInf, -kInf}) {
    SimulatedRanks ranks(Clipping(5), {.elements = 3}, 1);
    ranks.ExchangeCompressed({{30, bad, 40}}, TopK(3));
    EXPECT_THAT(ranks.flagged, Each(true));
    EXPECT_THAT(ranks.inputs[0], ElementsAre(FloatEq(3), 0, FloatEq(4)));

    SimulatedRanks dense(Clipping(5), {.elements = 3, .dense = true}, 1);
    dense.ExchangeDense({{30, bad, 40}});
    EXPECT_FALSE(dense.finite);
    EXPECT_FALSE(std::isfinite(dense.outs[0][1]));
  }
}

TEST(DgcClip, HugeAndZeroGradients) {
  constexpr float kMax = std::numeric_limits<float>::max();
  SimulatedRanks ranks(Clipping(1), {.elements = 4}, 1);
  ranks.ExchangeCompressed({{kMax, -kMax, kMax, kMax}}, TopK(4));
  EXPECT_THAT(ranks.flagged, Each(false));
  for (const float sent : ranks.inputs[0]) EXPECT_NEAR(std::fabs(sent), 0.5, 1e-5);
  ranks.Step(1);
  ranks.ExchangeCompressed({Vector(4)}, TopK(4));
  EXPECT_THAT(ranks.inputs[0], Each(0));
}

TEST(DgcClip, IsTheSameOnEveryTarget) {
  constexpr size_t kElements = 9001;
  const std::vector<Vector> gradients = RandomGradients(1, kElements, 7).Next();
  Vector expected;
  for (const kernels::Kernels* target : kernels::AvailableKernels()) {
    const kernels::ScopedKernelsForTest scoped(*target);
    SimulatedRanks ranks(Clipping(0.7), {.elements = kElements}, 1);
    ranks.ExchangeCompressed(gradients, TopK(1));
    if (expected.empty()) expected = ranks.inputs[0];
    EXPECT_EQ(ranks.inputs[0], expected) << target->name;
  }
}

// --- weight decay

TEST(DgcLocalDecay, IsAddedToTheGradientAfterClipping) {
  wire::Config config = LocalDecay(0.5);
  config.dgc.clip = 5;
  for (const bool dense : {false, true}) {
    SimulatedRanks ranks(config, {.elements = 2, .dense = dense}, 1);
    ranks.parameter = {100, -2};
    if (dense) {
      ranks.ExchangeDense({{30, 40}});
    } else {
      ranks.ExchangeCompressed({{30, 40}}, TopK(2));
    }
    EXPECT_THAT(ranks.inputs[0], ElementsAre(FloatEq(3 + 50), FloatEq(4 - 1)));
  }
}

TEST(DgcLocalDecay, IsLambdaOnceWhetherRanksAreAveragedOrAddedUp) {
  for (const wire::Reduce reduce : {wire::Reduce::kMean, wire::Reduce::kSum}) {
    wire::Config config = LocalDecay(0.5);
    config.reduce = reduce;
    SimulatedRanks ranks(config, {.elements = 1}, 4);
    ranks.parameter = {8};
    ranks.ExchangeCompressed(std::vector<Vector>(4, {0}), TopK(1));
    EXPECT_EQ(ranks.inputs[0][0] * (reduce == wire::Reduce::kMean ? 1 : 4), 4);
  }
}

TEST(DgcLocalDecay, AsksForTheParameterOnlyWhenItIsRead) {
  const auto needs = [](const wire::Config& config) {
    return MakeTensorMethod(config, {.elements = 1})->needs_parameter();
  };
  EXPECT_TRUE(needs(LocalDecay(0.1)));
  EXPECT_FALSE(needs(LocalDecay(0)));
  wire::Config buffered = LocalDecay(0.1);
  buffered.dgc.decay = wire::DecayForm::kBuffer;
  EXPECT_FALSE(needs(buffered));
}

// With no gradient and w held where it is, the update tends to lambda w / (1 - m).
TEST(DgcLocalDecay, Oracle10TendsToThatOfMomentumSgd) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(LocalDecay(0.01, 0.9, nesterov), {.elements = 1, .dense = true}, 2);
    ranks.parameter = {3};
    for (int step = 0; step < 300; ++step) {
      ranks.ExchangeDense({{0}, {0}});
      ranks.Step(1);
    }
    EXPECT_NEAR(ranks.outs[0][0], 0.01 * 3 / (1 - 0.9), 1e-6);
  }
}

// Dense, either form is momentum SGD with L2 regularisation: b <- m b + g + lambda w.
TEST(DgcLocalDecay, DenseBothFormsAreL2) {
  constexpr size_t kElements = 12;
  constexpr double kRate = 0.05;
  constexpr double kLambda = 0.02;
  for (const bool nesterov : {false, true}) {
    for (const wire::DecayForm form : {wire::DecayForm::kLocal, wire::DecayForm::kBuffer}) {
      wire::Config config = LocalDecay(kLambda, 0.9, nesterov);
      config.dgc.decay = form;
      SimulatedRanks ranks(config, {.elements = kElements, .dense = true}, 4);
      auto update = MakeParameterUpdate(config, kElements);
      RandomGradients random(4, kElements, 11);
      Vector w = random.Next()[0];
      std::vector<double> reference(w.begin(), w.end());
      std::vector<double> buffer(kElements);
      for (int step = 0; step < 100; ++step) {
        const std::vector<Vector> gradients = random.Next();
        ranks.parameter = w;
        ranks.ExchangeDense(gradients);
        update->Apply(ranks.outs[0], kRate, absl::MakeSpan(w));
        ranks.Step(1);
        for (size_t i = 0; i < kElements; ++i) {
          double g = kLambda * reference[i];
          for (const Vector& gradient : gradients) g += gradient[i] / 4.0;
          buffer[i] = 0.9 * buffer[i] + g;
          reference[i] -= kRate * (nesterov ? g + 0.9 * buffer[i] : buffer[i]);
        }
        ASSERT_THAT(w, Pointwise(NearlyEqual(2e-6), reference)) << step;
      }
    }
  }
}

}  // namespace
}  // namespace terse
