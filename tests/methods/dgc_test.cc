// SPDX-License-Identifier: Apache-2.0
//
// Properties of DGC that do not depend on a model of training: conservation, momentum correction, factor
// masking, density warm-up, dense tensors, skipped and clipped steps. dgc_local_test.cc has what happens to a
// gradient before.
//
// "Oracle" and a number in the name of a test, here and elsewhere, is one of the fourteen facts that any
// implementation of the method must reproduce:
//    1 conservation               5 worked example          8 gaps beyond 16 bits    12 resumption
//    2 sum of all that was sent   6 what masking forgets    9 edge cases             13 sampled selection
//    3, 4 sending everything      7 wire sizes             10 weight decay           14 clipping
//                                                          11 ranks alike
#include "compressors/methods/dgc.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/methods/simulation.h"

namespace terse {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::FloatEq;
using ::testing::FloatNear;
using ::testing::Pointwise;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

wire::Config DgcConfig(bool nesterov = false, bool masking = true, double momentum = 0.9) {
  wire::Config config;
  config.method = wire::Method::kDgc;
  config.dgc.nesterov = nesterov;
  config.dgc.masking = masking;
  config.dgc.momentum = momentum;
  return config;
}

// What masking drops is u; v is conserved bitwise with and without it.
TEST(Dgc, Oracle1WhatIsSentPlusWhatIsKeptIsWhatWasAccumulated) {
  constexpr size_t kElements = 200;
  for (const bool nesterov : {false, true}) {
    for (const bool masking : {false, true}) {
      SimulatedRanks ranks(DgcConfig(nesterov, masking), {.elements = kElements}, 2);
      RandomGradients random(2, kElements, 7);
      for (int step = 0; step < 50; ++step) {
        const Vector before = ranks.State(1, "v");
        ranks.ExchangeCompressed(random.Next(), TopK(10));
        const Vector c = Compensate(ranks.inputs[1], before);
        const Vector after = ranks.State(1, "v");
        for (size_t i = 0; i < kElements; ++i) {
          const float sent = ranks.payloads[1].decoded[i];
          ASSERT_TRUE(sent == 0 || after[i] == 0);
          ASSERT_EQ(sent + after[i], c[i]);
        }
        ranks.Step(1);
      }
    }
  }
}

// With masking off nothing is dropped: all that was sent plus v is the sum over steps of the momentum of a
// job that does not compress.
TEST(Dgc, Oracle2WithoutMaskingAllOfTheMomentumArrives) {
  constexpr size_t kElements = 60;
  constexpr double kMomentum = 0.9;
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov, false), {.elements = kElements}, 2);
    RandomGradients random(2, kElements, 11);
    std::vector<double> u(kElements);
    std::vector<double> expected(kElements);
    std::vector<double> sent(kElements);
    for (int step = 0; step < 100; ++step) {
      const std::vector<Vector> gradients = random.Next();
      ranks.ExchangeCompressed(gradients, TopK(3));
      for (size_t i = 0; i < kElements; ++i) {
        const double g = (double{gradients[0][i]} + gradients[1][i]) / 2;
        u[i] = nesterov ? kMomentum * (u[i] + g) : kMomentum * u[i] + g;
        expected[i] += nesterov ? u[i] + g : u[i];
        sent[i] += ranks.outs[0][i];
      }
      ranks.Step(1);
    }
    const std::vector<double> v = ranks.MeanState("v");
    for (size_t i = 0; i < kElements; ++i) EXPECT_NEAR(sent[i] + v[i], expected[i], 2e-4);
  }
}

TEST(Dgc, Oracle2WithoutMomentumTheSumOfTheGradientsArrivesExactly) {
  constexpr size_t kElements = 60;
  for (const bool masking : {false, true}) {
    SimulatedRanks ranks(DgcConfig(false, masking, 0.0), {.elements = kElements}, 4);
    RandomGradients random(4, kElements, 13);
    std::vector<double> given(kElements);
    std::vector<double> sent(kElements);
    for (int step = 0; step < 200; ++step) {
      const std::vector<Vector> gradients = random.NextIntegers();
      ranks.ExchangeCompressed(gradients, TopK(4));
      for (size_t i = 0; i < kElements; ++i) {
        for (const Vector& gradient : gradients) given[i] += gradient[i] / 4.0;
        sent[i] += ranks.outs[0][i];
      }
      ranks.Step(1);
    }
    const std::vector<double> v = ranks.MeanState("v");
    for (size_t i = 0; i < kElements; ++i) EXPECT_EQ(sent[i] + v[i], given[i]);
  }
}

// The momentum buffer b of an ordinary optimizer: b <- m b + g, update b or, with Nesterov, g + m b.
class MomentumSgd {
 public:
  MomentumSgd(double momentum, bool nesterov, size_t elements)
      : momentum_(momentum), nesterov_(nesterov), buffer_(elements) {}
  std::vector<double> Update(const std::vector<Vector>& gradients) {
    std::vector<double> update(buffer_.size());
    for (size_t i = 0; i < buffer_.size(); ++i) {
      double g = 0;
      for (const Vector& gradient : gradients) g += gradient[i] / static_cast<double>(gradients.size());
      buffer_[i] = momentum_ * buffer_[i] + g;
      update[i] = nesterov_ ? g + momentum_ * buffer_[i] : buffer_[i];
    }
    return update;
  }

 private:
  const double momentum_;
  const bool nesterov_;
  std::vector<double> buffer_;
};

MATCHER_P(NearlyEqual, tolerance, "") { return std::fabs(std::get<0>(arg) - std::get<1>(arg)) <= tolerance; }

TEST(Dgc, Oracle3SendingEverythingWithoutMaskingIsMomentumSgd) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov, false), {.elements = 20}, 2);
    MomentumSgd reference(0.9, nesterov, 20);
    RandomGradients random(2, 20, 17);
    for (int step = 0; step < 50; ++step) {
      const std::vector<Vector> gradients = random.Next();
      ranks.ExchangeCompressed(gradients, TopK(20));
      EXPECT_THAT(ranks.outs[0], Pointwise(NearlyEqual(2e-6), reference.Update(gradients)));
      ranks.Step(1);
    }
  }
}

TEST(Dgc, Oracle4SendingEverythingWithMaskingIsPlainSgd) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov), {.elements = 8}, 1);
    RandomGradients random(1, 8, 19);
    for (int step = 0; step < 5; ++step) {
      const std::vector<Vector> gradients = random.Next();
      ranks.ExchangeCompressed(gradients, TopK(8));
      for (size_t i = 0; i < 8; ++i) {
        EXPECT_THAT(ranks.outs[0][i], FloatEq((nesterov ? 1.9f : 1.0f) * gradients[0][i]));
      }
      ranks.Step(1);
    }
  }
}

// Reference example: g = 1, m = 0.9, nothing sent for three steps.
// What rounding a value cuts off waits in v; masking goes by position and clears u there all the same. A
// skipped step finds both again.
TEST(Dgc, Oracle1WithRoundedValuesTheErrorStaysInV) {
  const auto to_eighths = [](float x) { return std::nearbyint(x * 8) / 8; };
  for (const bool nesterov : {false, true}) {
    for (const double applied : {1.0, 0.0}) {
      SimulatedRanks ranks(DgcConfig(nesterov), {.elements = 2}, 1);
      ranks.ExchangeCompressed({{1.0f / 3, 0.01f}}, TopK(1, to_eighths));
      const float c = ranks.inputs[0][0];
      const float sent = ranks.outs[0][0];
      const float u = nesterov ? 0.9f * (1.0f / 3) : 1.0f / 3;
      EXPECT_NE(sent, c);
      ranks.Step(applied);
      EXPECT_EQ(ranks.State(0, "v")[0], applied == 1 ? c - sent : c);
      EXPECT_EQ(ranks.State(0, "u")[0], applied == 1 ? 0 : u);
    }
  }
}

TEST(Dgc, Oracle5AccumulatesMomentum) {
  SimulatedRanks ranks(DgcConfig(), {.elements = 1}, 1);
  const float u[] = {1, 1.9f, 2.71f};
  for (const float expected : u) {
    ranks.ExchangeCompressed({{1}}, TopK(0));
    ranks.Step(1);
    EXPECT_THAT(ranks.State(0, "u"), ElementsAre(FloatEq(expected)));
  }
  EXPECT_THAT(ranks.State(0, "v"), ElementsAre(FloatEq(5.61f)));
}

TEST(Dgc, Oracle6MaskingForgetsTheMomentumOfWhatWasSent) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov), {.elements = 3}, 1);
    ranks.ExchangeCompressed({{1, 8, 2}}, TopK(1));
    ranks.Step(1);
    EXPECT_EQ(ranks.State(0, "u")[1], 0);
    EXPECT_NE(ranks.State(0, "u")[0], 0);
    ranks.ExchangeCompressed({{0, 0.5f, 0}}, TopK(0));
    EXPECT_THAT(ranks.State(0, "v")[1], FloatEq(nesterov ? 0.95f : 0.5f));
  }
}

TEST(Dgc, WithoutMaskingTheMomentumStays) {
  SimulatedRanks ranks(DgcConfig(false, false), {.elements = 2}, 1);
  ranks.ExchangeCompressed({{1, 8}}, TopK(1));
  ranks.Step(1);
  EXPECT_THAT(ranks.State(0, "u"), ElementsAre(1, 8));
}

TEST(Dgc, Oracle9TiesZerosAndSingleElements) {
  SimulatedRanks zero(DgcConfig(), {.elements = 4}, 2);
  zero.ExchangeCompressed({Vector(4), Vector(4)}, TopK(1));
  EXPECT_THAT(zero.outs, Each(ElementsAre(0, 0, 0, 0)));
  zero.Step(1);

  SimulatedRanks ties(DgcConfig(), {.elements = 4}, 1);
  ties.ExchangeCompressed({{2, -2, 2, -2}}, TopK(2));
  ties.Step(1);
  EXPECT_THAT(ties.State(0, "v"), ElementsAre(0, 0, 2, -2));
  EXPECT_THAT(ties.State(0, "u"), ElementsAre(0, 0, 2, -2));

  SimulatedRanks one(DgcConfig(), {.elements = 1}, 2);
  one.ExchangeCompressed({{3}, {5}}, TopK(1));
  one.Step(1);
  EXPECT_THAT(one.outs, Each(ElementsAre(4)));
  EXPECT_THAT(one.State(0, "u"), ElementsAre(0));
}

// Each rank's mask is its own, and one may have sent nothing.
TEST(Dgc, Oracle9RanksMaskWhatTheyThemselvesSent) {
  SimulatedRanks ranks(DgcConfig(), {.elements = 2}, 2);
  size_t call = 0;
  const TestCodec uneven = [&](absl::Span<const float> input, absl::Span<float> residual) {
    return TopK(call++ % 2)(input, residual);
  };
  ranks.ExchangeCompressed({{4, 2}, {4, 2}}, uneven);
  ranks.Step(1);
  EXPECT_THAT(ranks.outs, Each(ElementsAre(2, 0)));
  EXPECT_THAT(ranks.State(0, "u"), ElementsAre(4, 2));
  EXPECT_THAT(ranks.State(1, "u"), ElementsAre(0, 2));
}

TEST(Dgc, Oracle9NonfiniteElementsCountAsZeroAndAreNeverStored) {
  for (const bool nesterov : {false, true}) {
    for (const float bad : {kNan, kInf, -kInf}) {
      SimulatedRanks ranks(DgcConfig(nesterov), {.elements = 3}, 2);
      SimulatedRanks with_zero(DgcConfig(nesterov), {.elements = 3}, 2);
      for (SimulatedRanks* each : {&ranks, &with_zero}) {
        each->ExchangeCompressed({{1, 2, 3}, {1, 2, 3}}, TopK(1));
        each->Step(1);
      }
      ranks.ExchangeCompressed({{1, bad, 3}, {1, 1, 1}}, TopK(1));
      with_zero.ExchangeCompressed({{1, 0, 3}, {1, 1, 1}}, TopK(1));
      EXPECT_THAT(ranks.flagged, ElementsAre(true, false));
      EXPECT_THAT(with_zero.flagged, ElementsAre(false, false));
      for (SimulatedRanks* each : {&ranks, &with_zero}) each->Step(0);
      for (const size_t rank : {0, 1}) {
        EXPECT_EQ(ranks.State(rank, "u"), with_zero.State(rank, "u"));
        EXPECT_EQ(ranks.State(rank, "v"), with_zero.State(rank, "v"));
      }
    }
  }
}

TEST(Dgc, AGradientThatOverflowsTheMomentumIsNotFinite) {
  constexpr float kMax = std::numeric_limits<float>::max();
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov, false), {.elements = 1}, 1);
    ranks.ExchangeCompressed({{kMax / 2}}, TopK(1));
    EXPECT_FALSE(ranks.flagged[0]);
    ranks.Step(1);
    ranks.ExchangeCompressed({{kMax}}, TopK(1));
    EXPECT_TRUE(ranks.flagged[0]);
    EXPECT_TRUE(std::isfinite(ranks.State(0, "u")[0]));
    EXPECT_TRUE(std::isfinite(ranks.inputs[0][0]));
  }
}

TEST(Dgc, DensityWarmUp) {
  wire::Config config = DgcConfig();
  config.dgc.warmup_steps = 10;
  config.dgc.warmup_density = {1.0, 0.25, 0.001};
  auto method = MakeTensorMethod(config, {.elements = 1});
  wire::CodecParams planned;
  planned.density = 0.01;
  planned.index = wire::IndexCoding::kRice;
  // Stages begin at steps 0, 4 (10/3) and 7 (20/3); the third is below the plan's density, which is the
  // least.
  const double expected[] = {1, 1, 1, 1, 0.25, 0.25, 0.25, 0.01, 0.01, 0.01, 0.01, 0.01};
  for (uint64_t step = 0; step < std::size(expected); ++step) {
    EXPECT_EQ(method->Params(step, planned).density, expected[step]) << step;
    EXPECT_EQ(method->Params(step, planned).index, wire::IndexCoding::kRice);
  }
  EXPECT_EQ(method->Params(std::numeric_limits<uint64_t>::max(), planned).density, 0.01);

  config.dgc.warmup_density.clear();
  EXPECT_EQ(MakeTensorMethod(config, {.elements = 1})->Params(0, planned).density, 0.01);
  config.dgc.warmup_density = {0.5};
  config.dgc.warmup_steps = 0;
  EXPECT_EQ(MakeTensorMethod(config, {.elements = 1})->Params(0, planned).density, 0.01);
}

TEST(Dgc, DenseTensorsGetTheirMomentumOnce) {
  for (const bool nesterov : {false, true}) {
    for (const size_t world : {1, 4}) {
      SimulatedRanks ranks(DgcConfig(nesterov), {.elements = 10, .dense = true}, world);
      MomentumSgd reference(0.9, nesterov, 10);
      RandomGradients random(world, 10, 23);
      for (int step = 0; step < 60; ++step) {
        const std::vector<Vector> gradients = random.Next();
        ranks.ExchangeDense(gradients);
        EXPECT_THAT(ranks.outs[0], Pointwise(NearlyEqual(2e-6), reference.Update(gradients)));
        EXPECT_TRUE(ranks.finite);
        ranks.Step(1);
      }
      EXPECT_THAT(ranks.StateNames(0), ElementsAre("u"));
    }
  }
}

TEST(Dgc, ADenseStepThatIsSkippedLeavesTheMomentum) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov), {.elements = 3, .dense = true}, 1);
    ranks.ExchangeDense({{1, 2, 3}});
    ranks.Step(1);
    const Vector u = ranks.State(0, "u");
    ranks.ExchangeDense({{5, 5, 5}});
    const Vector out = ranks.outs[0];
    ranks.Step(0);
    EXPECT_EQ(ranks.State(0, "u"), u);
    ranks.ExchangeDense({{5, 5, 5}});
    EXPECT_EQ(ranks.outs[0], out);
    ranks.Step(0.5);  // a clip scales the update, not the momentum
    EXPECT_THAT(ranks.State(0, "u")[0], FloatEq(nesterov ? 0.9f * (0.9f + 5) : 0.9f + 5));
  }
}

TEST(Dgc, DenseGradientsThatAreNotFiniteArePassedOnAndNotStored) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov), {.elements = 2, .dense = true}, 2);
    ranks.ExchangeDense({{1, 2}, {1, 2}});
    ranks.Step(1);
    const Vector u = ranks.State(0, "u");
    for (const float bad : {kNan, kInf, -kInf}) {
      ranks.ExchangeDense({{1, 1}, {1, bad}});
      EXPECT_FALSE(ranks.finite);
      for (const Vector& out : ranks.outs) EXPECT_FALSE(std::isfinite(out[1]));
      ranks.Step(1);  // even if the job did not look
      for (const size_t rank : {0, 1}) EXPECT_EQ(ranks.State(rank, "u"), u);
    }
  }
}

// From dense to compressed and back the trajectory stays that of momentum SGD, and every rank gets the same.
TEST(Dgc, TensorsMayChangeBetweenDenseAndCompressed) {
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov, false), {.elements = 12}, 4);
    MomentumSgd reference(0.9, nesterov, 12);
    RandomGradients random(4, 12, 29);
    for (int step = 0; step < 60; ++step) {
      const std::vector<Vector> gradients = random.Next();
      if (step % 20 < 10) {
        ranks.ExchangeDense(gradients);
      } else {
        ranks.ExchangeCompressed(gradients, TopK(12));
      }
      EXPECT_THAT(ranks.outs[0], Pointwise(NearlyEqual(3e-6), reference.Update(gradients))) << step;
      for (const Vector& out : ranks.outs) EXPECT_EQ(out, ranks.outs[0]);
      ranks.Step(1);
    }
  }
}

TEST(Dgc, ADenseStepTakesOutOfVAsMuchAsItSendsAnyway) {
  SimulatedRanks ranks(DgcConfig(), {.elements = 2}, 1);
  ranks.ExchangeCompressed({{2, 4}}, TopK(1));
  ranks.Step(1);
  // u = (2, 0) has moved on to (1, 0): half of v = (2, 0) may go with it.
  ranks.ExchangeDense({{-0.8f, 0}});
  EXPECT_THAT(ranks.outs[0], ElementsAre(FloatNear(2, 1e-6), 0));
  ranks.Step(0);
  EXPECT_THAT(ranks.State(0, "v"), ElementsAre(2, 0)) << "a skipped step takes nothing";
  ranks.ExchangeDense({{-0.8f, 0}});
  ranks.Step(1);
  EXPECT_THAT(ranks.State(0, "v"), ElementsAre(FloatNear(1, 1e-6), 0));
  ranks.ExchangeCompressed({{-0.9f, 0}}, TopK(1));
  EXPECT_THAT(ranks.outs[0], ElementsAre(FloatNear(1, 1e-6), 0)) << "the rest goes out compressed";
}

// After a skip the memory is that of a step in which nothing was selected, bit by bit.
TEST(Dgc, ASkippedStepSentNothing) {
  constexpr size_t kElements = 50;
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov), {.elements = kElements}, 2);
    SimulatedRanks silent(DgcConfig(nesterov), {.elements = kElements}, 2);
    RandomGradients random(2, kElements, 31);
    for (int step = 0; step < 40; ++step) {
      const std::vector<Vector> gradients = random.Next();
      const bool skip = step % 3 == 1;
      ranks.ExchangeCompressed(gradients, TopK(5));
      silent.ExchangeCompressed(gradients, TopK(skip ? 0 : 5));
      ranks.Step(skip ? 0 : 1);
      silent.Step(1);
      for (const size_t rank : {0, 1}) {
        ASSERT_THAT(ranks.State(rank, "u"), Pointwise(Eq(), silent.State(rank, "u"))) << step;
        ASSERT_THAT(ranks.State(rank, "v"), Pointwise(Eq(), silent.State(rank, "v"))) << step;
      }
    }
  }
}

TEST(Dgc, AClippedStepKeepsTheRest) {
  SimulatedRanks ranks(DgcConfig(), {.elements = 2}, 1);
  EXPECT_EQ(ranks.method(0).ReturnFraction(0.75), 0.25);
  ranks.ExchangeCompressed({{1, 8}}, TopK(1));
  ranks.Step(0.75);
  EXPECT_THAT(ranks.State(0, "v"), ElementsAre(1, 2));
  EXPECT_THAT(ranks.State(0, "u"), ElementsAre(1, 2));
}

// With masking off, what reached the parameters plus v is the momentum of all steps, skipped and clipped
// ones included.
TEST(Dgc, SkippedAndClippedStepsConserveTheMomentum) {
  constexpr size_t kElements = 40;
  constexpr size_t kWorld = 4;
  for (const bool nesterov : {false, true}) {
    SimulatedRanks ranks(DgcConfig(nesterov, false), {.elements = kElements}, kWorld);
    RandomGradients random(kWorld, kElements, 37);
    std::vector<double> given(kElements);
    std::vector<double> applied(kElements);
    for (int step = 0; step < 200; ++step) {
      ranks.ExchangeCompressed(random.Next(), TopK(4));
      const float draw = random.Uniform();
      const double part = draw < -0.4f ? 0.0 : (draw < 0.2f ? 0.5 + draw : 1.0);
      for (size_t i = 0; i < kElements; ++i) {
        for (const Vector& input : ranks.inputs) given[i] += input[i] / double{kWorld};
        applied[i] += part * ranks.outs[0][i];
      }
      ranks.Step(part);
    }
    const std::vector<double> v = ranks.MeanState("v");
    for (size_t i = 0; i < kElements; ++i) EXPECT_NEAR(applied[i] + v[i], given[i], 5e-4);
  }
}

TEST(Dgc, AResolveWithoutAnExchangeDoesNothing) {
  SimulatedRanks ranks(DgcConfig(), {.elements = 2}, 1);
  ranks.ExchangeCompressed({{1, 8}}, TopK(1));
  ranks.Step(1);
  const Vector u = ranks.State(0, "u");
  ranks.method(0).Resolve(1);
  ranks.method(0).Resolve(0);
  EXPECT_EQ(ranks.State(0, "u"), u);
}

// The state of one method put into a fresh one in the middle of the warm-up continues bit by bit.
TEST(Dgc, Oracle12StateIsComplete) {
  constexpr size_t kElements = 30;
  for (const bool nesterov : {false, true}) {
    wire::Config config = DgcConfig(nesterov);
    config.dgc.warmup_steps = 30;
    config.dgc.warmup_density = {0.5, 0.3, 0.2};
    SimulatedRanks first(config, {.elements = kElements}, 2);
    SimulatedRanks second(config, {.elements = kElements}, 2);
    const auto exchange = [](SimulatedRanks& ranks, uint64_t step, const std::vector<Vector>& gradients) {
      wire::CodecParams planned;
      planned.density = 0.1;
      const double density = ranks.method(0).Params(step, planned).density;
      ranks.ExchangeCompressed(gradients, TopK(static_cast<size_t>(std::lround(density * kElements))));
      ranks.Step(1);
    };
    RandomGradients random(2, kElements, 41);
    for (uint64_t step = 0; step < 20; ++step) exchange(first, step, random.Next());
    for (const size_t rank : {0, 1}) {
      second.method(rank).VisitState([&](std::string_view name, wire::MemoryRole, FloatVector* values) {
        const Vector state = first.State(rank, name);
        values->assign(state.begin(), state.end());
      });
    }
    EXPECT_THAT(second.StateNames(0), ElementsAre("u", "v"));
    for (uint64_t step = 20; step < 40; ++step) {
      const std::vector<Vector> gradients = random.Next();
      for (SimulatedRanks* each : {&first, &second}) exchange(*each, step, gradients);
      ASSERT_EQ(first.outs, second.outs);
    }
  }
}

}  // namespace
}  // namespace terse
