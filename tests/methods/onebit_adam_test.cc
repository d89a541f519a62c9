// SPDX-License-Identifier: Apache-2.0
//
// Properties of 1-bit Adam: the two stages, error feedback of workers and servers, the exact worked example,
// the variance floor, skipped and clipped steps. OracleN: number N of the reference's list of what any
// implementation must show; the names say which.
#include "compressors/methods/onebit_adam.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/methods/simulation.h"

namespace terse {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::FloatEq;
using ::testing::FloatNear;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

wire::Config AdamConfig(int64_t freeze, double beta1 = 0.9, double variance_floor = 0.0) {
  wire::Config config;
  config.method = wire::Method::kOneBitAdam;
  config.adam.freeze = freeze;
  config.adam.beta1 = beta1;
  config.adam.variance_floor = variance_floor;
  return config;
}

// Adam on the mean gradient in double precision, without bias correction; v stops when told to.
class ReferenceAdam {
 public:
  explicit ReferenceAdam(size_t elements) : m_(elements), v_(elements) {}
  std::vector<double> Update(const std::vector<Vector>& gradients, bool frozen) {
    std::vector<double> update(m_.size());
    for (size_t i = 0; i < m_.size(); ++i) {
      double g = 0;
      for (const Vector& gradient : gradients) g += gradient[i] / static_cast<double>(gradients.size());
      m_[i] = 0.9 * m_[i] + 0.1 * g;
      if (!frozen) v_[i] = 0.999 * v_[i] + 0.001 * g * g;
      update[i] = m_[i] / (std::sqrt(v_[i]) + 1e-8);
    }
    return update;
  }

 private:
  std::vector<double> m_;
  std::vector<double> v_;
};

void ExpectNear(const Vector& actual, const std::vector<double>& expected, double relative) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], relative * (1 + std::fabs(expected[i]))) << i;
  }
}

// Reference: a scalar, g = 1, defaults. With bias correction the step would be -1e-3.
TEST(OneBitAdam, Oracle4TheFirstStepHasNoBiasCorrection) {
  const wire::Config config = AdamConfig(10);
  SimulatedRanks ranks(config, {.elements = 1}, 1);
  ranks.ExchangeDense({{1}});
  auto update = MakeParameterUpdate(config, 1);
  Vector w = {0};
  update->Apply(ranks.outs[0], 1e-3, absl::MakeSpan(w));
  EXPECT_NEAR(w[0], -3.16228e-3, 1e-8);
}

TEST(OneBitAdam, Oracle4WarmUpIsAdamOnTheMeanGradient) {
  for (const size_t world : {1, 4}) {
    SimulatedRanks ranks(AdamConfig(100), {.elements = 9}, world);
    ReferenceAdam reference(9);
    RandomGradients random(world, 9, 3);
    for (uint64_t step = 0; step < 100; ++step) {
      ASSERT_TRUE(ranks.method(0).WantsDense(step));
      const std::vector<Vector> gradients = random.Next();
      ranks.ExchangeDense(gradients);
      EXPECT_TRUE(ranks.finite);
      ExpectNear(ranks.outs[0], reference.Update(gradients, false), 1e-5);
      ranks.Step(1);
    }
    EXPECT_FALSE(ranks.method(0).WantsDense(100));
    EXPECT_FALSE(ranks.method(0).WantsDense(std::numeric_limits<uint64_t>::max()));
  }
}

TEST(OneBitAdam, Oracle4WithoutLossTheCompressedStageIsAdamWithFrozenVariance) {
  SimulatedRanks ranks(AdamConfig(20), {.elements = 9}, 4);
  ReferenceAdam reference(9);
  RandomGradients random(4, 9, 5);
  for (int step = 0; step < 80; ++step) {
    const std::vector<Vector> gradients = random.Next();
    // Once frozen, by step 20, an occasional dense exchange changes nothing.
    if (step < 20 || step % 7 == 0) {
      ranks.ExchangeDense(gradients);
    } else {
      ranks.ExchangeCompressed(gradients, Lossless());
    }
    ExpectNear(ranks.outs[0], reference.Update(gradients, step >= 20), 1e-5);
    ranks.Step(1);
  }
}

TEST(OneBitAdam, TensorsDenseByPlanStayExactAdam) {
  SimulatedRanks ranks(AdamConfig(5), {.elements = 3, .dense = true}, 2);
  ReferenceAdam reference(3);
  RandomGradients random(2, 3, 7);
  for (int step = 0; step < 30; ++step) {
    const std::vector<Vector> gradients = random.Next();
    ranks.ExchangeDense(gradients);
    ExpectNear(ranks.outs[0], reference.Update(gradients, false), 1e-5);
    ranks.Step(1);
  }
  EXPECT_THAT(ranks.StateNames(0), ElementsAre("m", "variance"));
  EXPECT_THAT(ranks.method(0).residual(), IsEmpty());
}

// The worked example of the reference, verified there with rational arithmetic. It gives what the workers
// are to send, m_i; with b1 = 1/2 the gradient that leads to it is 2 m_i - m, and all numbers are exact.
TEST(OneBitAdam, Oracle7WorkedExample) {
  struct Round {
    Vector m0, m1, mean, w0, w1, s;
  };
  const Round rounds[] = {
      {{0, 5, 1, 1, -4, -2, 1, -1, -3, 6, 5, -2, 2, -8, -1, 8},
       {-1, 2, -1, -1, -2, -3, -2, 2, -2, -2, 1, 2, -1, 3, -3, -2},
       {2, 2, 2, 2, -2, -2, 2, -2, -2, 2, 2, -2, 2, -2, -2, 2},
       {-4, 1, -3, -3, 0, 2, -3, 3, 1, 2, 1, 2, -2, -4, 3, 4},
       {1, 0, 1, 1, 0, -1, 0, 0, 0, 0, -1, 0, 1, 1, -1, 0},
       {-1, 1, -1, -1, -1, -1, -1, 1, -1, -1, 1, 1, -1, 1, -1, -1}},
      {{6, 0, 9, 4, 2, -7, 6, -8, 4, 0, 3, 7, 6, 2, -1, -5},
       {-1, -11, 11, 2, -6, 11, -3, -10, 4, -1, 5, 3, 1, 2, 2, 1},
       {3, 3, 3, 3, -3, 3, -3, -3, 4, -4, 4, 4, 4, 4, 4, 4},
       {-2, -3, 2, -3, -2, -1, -1, -1, 1, -2, 0, 5, 0, 2, -2, 3},
       {-6, -5, 6, -3, 0, 4, 3, -4, -2, 5, -2, -3, -4, -3, -5, -5},
       {1, -3, 1, 1, 1, -3, 1, -1, 0, 2, 2, 2, 0, -2, 0, -4}},
  };
  SimulatedRanks ranks(AdamConfig(0, 0.5), {.elements = 16}, 2);
  ranks.UseServer();
  Vector m(16);
  for (const Round& round : rounds) {
    std::vector<Vector> gradients(2, Vector(16));
    for (size_t i = 0; i < 16; ++i) {
      gradients[0][i] = 2 * round.m0[i] - m[i];
      gradients[1][i] = 2 * round.m1[i] - m[i];
    }
    ranks.ExchangeCompressed(gradients, OneBit());
    ranks.Step(1);
    EXPECT_EQ(ranks.inputs[0], round.m0);
    EXPECT_EQ(ranks.inputs[1], round.m1);
    for (const size_t rank : {0, 1}) EXPECT_EQ(ranks.State(rank, "m"), round.mean);
    EXPECT_EQ(ranks.State(0, "worker_error"), round.w0);
    EXPECT_EQ(ranks.State(1, "worker_error"), round.w1);
    EXPECT_EQ(ranks.server_error(), round.s);
    m = round.mean;
  }
}

TEST(OneBitAdam, Oracle3RanksAgreeAndTheVarianceDoesNotMoveAfterTheFreeze) {
  constexpr size_t kElements = 32;
  SimulatedRanks ranks(AdamConfig(10, 0.9, 0.01), {.elements = kElements}, 4);
  ranks.UseServer();
  RandomGradients random(4, kElements, 11);
  Vector variance;
  for (int step = 0; step < 40; ++step) {
    if (step < 10) {
      ranks.ExchangeDense(random.Next());
    } else {
      if (step == 10) variance = ranks.State(0, "variance");
      ranks.ExchangeCompressed(random.Next(), OneBit());
    }
    ranks.Step(1);
    for (size_t rank = 1; rank < 4; ++rank) {
      ASSERT_EQ(ranks.outs[rank], ranks.outs[0]);
      ASSERT_EQ(ranks.State(rank, "m"), ranks.State(0, "m"));
      ASSERT_EQ(ranks.State(rank, "variance"), ranks.State(0, "variance"));
    }
    if (step < 10) continue;
    EXPECT_EQ(ranks.State(3, "variance"), variance);
    const Vector m = ranks.State(0, "m");
    for (size_t i = 0; i < kElements; ++i) {
      EXPECT_EQ(std::fabs(m[i]), std::fabs(m[i / 8 * 8])) << "one scale a chunk";
    }
  }
}

TEST(OneBitAdam, Oracle1WhatIsSentAndWhatIsKeptIsWhatWasToBeSent) {
  constexpr size_t kElements = 24;
  constexpr size_t kWorld = 4;
  SimulatedRanks ranks(AdamConfig(0), {.elements = kElements}, kWorld);
  ranks.UseServer();
  RandomGradients random(kWorld, kElements, 31);
  for (int step = 0; step < 50; ++step) {
    std::vector<Vector> before;
    for (size_t rank = 0; rank < kWorld; ++rank) before.push_back(ranks.State(rank, "worker_error"));
    const Vector server_before = ranks.server_error();
    ranks.ExchangeCompressed(random.Next(), OneBit());
    for (size_t i = 0; i < kElements; ++i) {
      double y = server_before[i];
      for (size_t rank = 0; rank < kWorld; ++rank) {
        const double sent = ranks.payloads[rank].decoded[i];
        EXPECT_NEAR(sent + ranks.method(rank).residual()[i], double{ranks.inputs[rank][i]} + before[rank][i],
                    1e-6);
        y += sent / double{kWorld};
      }
      EXPECT_NEAR(double{ranks.reduced[i]} + ranks.server_error()[i], y, 1e-6);
    }
    ranks.Step(1);
  }
}

// Telescoping: what came back plus the errors still kept is what was sent.
TEST(OneBitAdam, Oracle2NothingOfTheMomentumIsLost) {
  constexpr size_t kElements = 24;
  constexpr size_t kWorld = 4;
  SimulatedRanks ranks(AdamConfig(0), {.elements = kElements}, kWorld);
  ranks.UseServer();
  RandomGradients random(kWorld, kElements, 13);
  std::vector<double> sent(kElements);
  std::vector<double> arrived(kElements);
  for (int step = 0; step < 200; ++step) {
    ranks.ExchangeCompressed(random.Next(), OneBit());
    for (size_t i = 0; i < kElements; ++i) {
      for (const Vector& input : ranks.inputs) sent[i] += input[i] / double{kWorld};
      arrived[i] += ranks.reduced[i];
    }
    ranks.Step(1);
  }
  const std::vector<double> kept = ranks.MeanState("worker_error");
  for (size_t i = 0; i < kElements; ++i) {
    EXPECT_NEAR(arrived[i] + kept[i] + ranks.server_error()[i], sent[i], 2e-5);
  }
}

TEST(OneBitAdam, Oracle5ZerosStayZeroAndAnEmptyTensorIsHarmless) {
  SimulatedRanks ranks(AdamConfig(0, 0.9, 0.01), {.elements = 4}, 2);
  ranks.UseServer();
  for (int step = 0; step < 3; ++step) {
    ranks.ExchangeCompressed({Vector(4), Vector(4)}, OneBit());
    EXPECT_TRUE(ranks.finite);
    ranks.Step(1);
    EXPECT_THAT(ranks.outs, Each(Each(0.0f)));
    EXPECT_THAT(ranks.State(1, "worker_error"), Each(0.0f));
    EXPECT_THAT(ranks.server_error(), Each(0.0f));
  }
  SimulatedRanks empty(AdamConfig(0, 0.9, 0.01), {.elements = 0}, 2);
  empty.ExchangeCompressed({{}, {}}, OneBit());
  EXPECT_TRUE(empty.finite);
  empty.Step(0);
}

// The reference computed 31 for the error's norm after 2000 rounds of a constant one-hot input.
TEST(OneBitAdam, Oracle6TheErrorOfAConstantGradientStaysBounded) {
  constexpr size_t kElements = 1024;
  SimulatedRanks ranks(AdamConfig(0, 0.0), {.elements = kElements}, 1);
  Vector one_hot(kElements);
  one_hot[0] = 1;
  float largest = 0;
  for (int step = 0; step < 2000; ++step) {
    ranks.ExchangeCompressed({one_hot}, OneBit());
    ranks.Step(1);
    largest = std::max(largest, L2Scale(ranks.method(0).residual()) * 32);
  }
  EXPECT_GT(largest, 16);
  EXPECT_LT(largest, 33);
}

TEST(OneBitAdam, ACoordinateWithoutAnyGradientGetsZeroHoweverSmallEpsIs) {
  wire::Config config = AdamConfig(1);
  config.adam.eps = 1e-300;
  SimulatedRanks ranks(config, {.elements = 2}, 1);
  ranks.ExchangeDense({{1, 0}});
  EXPECT_TRUE(ranks.finite);
  EXPECT_EQ(ranks.outs[0][1], 0);
  ranks.Step(1);
  ranks.ExchangeCompressed({{1, 0}}, Lossless());
  EXPECT_TRUE(ranks.finite);
  EXPECT_EQ(ranks.outs[0][1], 0);
}

// Two warm-up steps leave v = (4c, 0, 0, 0) for some c, whose mean is c.
TEST(OneBitAdam, TheFrozenVarianceIsFloored) {
  for (const double floor : {0.0, 0.25, 1.0}) {
    SimulatedRanks ranks(AdamConfig(2, 0.9, floor), {.elements = 4}, 1);
    for (int step = 0; step < 2; ++step) {
      ranks.ExchangeDense({{2, 0, 0, 0}});
      ranks.Step(1);
    }
    const float v = ranks.State(0, "variance")[0];
    ranks.ExchangeCompressed({{1, 1, 1, -1}}, Lossless());
    const float floored = std::sqrt(static_cast<float>(floor) * v / 4) + 1e-8f;
    EXPECT_THAT(ranks.outs[0],
                ElementsAre(FloatEq(ranks.reduced[0] / (std::sqrt(v) + 1e-8f)), FloatEq(0.1f / floored),
                            FloatEq(0.1f / floored), FloatEq(-0.1f / floored)));
    ranks.Step(1);
    EXPECT_THAT(ranks.State(0, "variance"), ElementsAre(v, 0, 0, 0)) << "the state is v as frozen";
  }
}

TEST(OneBitAdam, ASkippedWarmUpStepChangesNothing) {
  SimulatedRanks ranks(AdamConfig(10), {.elements = 5}, 2);
  RandomGradients random(2, 5, 17);
  ranks.ExchangeDense(random.Next());
  ranks.Step(1);
  const Vector m = ranks.State(0, "m");
  const Vector variance = ranks.State(0, "variance");
  ranks.ExchangeDense(random.Next());
  ranks.Step(0);
  EXPECT_EQ(ranks.State(0, "m"), m);
  EXPECT_EQ(ranks.State(0, "variance"), variance);
}

// A skip keeps exactly (1 - b1) g of the step, here 3/4 of it, and moves nothing else.
TEST(OneBitAdam, ASkippedCompressedStepDelaysItsGradient) {
  SimulatedRanks ranks(AdamConfig(0, 0.25), {.elements = 4}, 2);
  ranks.UseServer();
  ranks.ExchangeCompressed({{4, 8, -4, 8}, {8, 4, 8, -4}}, OneBit());
  ranks.Step(1);
  const Vector m = ranks.State(0, "m");
  const Vector server_error = ranks.server_error();
  const Vector error[] = {ranks.State(0, "worker_error"), ranks.State(1, "worker_error")};
  const std::vector<Vector> gradients = {{4, 0, -8, 16}, {0, -4, 4, 4}};
  EXPECT_EQ(ranks.method(0).ReturnFraction(0), 1);
  ranks.ExchangeCompressed(gradients, OneBit());
  ranks.Step(0);
  EXPECT_EQ(ranks.State(0, "m"), m);
  EXPECT_EQ(ranks.server_error(), server_error);
  for (const size_t rank : {0, 1}) {
    const Vector after = ranks.State(rank, "worker_error");
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(after[i], error[rank][i] + 0.75f * gradients[rank][i], 4e-6);
  }
}

TEST(OneBitAdam, AClipScalesTheUpdateButNotTheMomentum) {
  SimulatedRanks clipped(AdamConfig(0), {.elements = 4}, 2);
  SimulatedRanks applied(AdamConfig(0), {.elements = 4}, 2);
  RandomGradients random(2, 4, 19);
  for (int step = 0; step < 5; ++step) {
    const std::vector<Vector> gradients = random.Next();
    clipped.ExchangeCompressed(gradients, OneBit());
    applied.ExchangeCompressed(gradients, OneBit());
    clipped.Step(0.125);
    applied.Step(1);
    EXPECT_EQ(clipped.State(0, "m"), applied.State(0, "m"));
    EXPECT_EQ(clipped.State(0, "worker_error"), applied.State(0, "worker_error"));
  }
  EXPECT_EQ(clipped.method(0).ReturnFraction(0.125), 0);
  EXPECT_EQ(clipped.method(0).ReturnFraction(1), 0);
}

// Over steps of which any may be skipped, (1 - b1) times the sum of the gradients is what entered m, plus
// what the workers and the servers keep.
TEST(OneBitAdam, SkippedStepsConserveTheGradient) {
  constexpr size_t kElements = 16;
  constexpr size_t kWorld = 4;
  SimulatedRanks ranks(AdamConfig(0), {.elements = kElements}, kWorld);
  ranks.UseServer();
  RandomGradients random(kWorld, kElements, 23);
  std::vector<double> given(kElements);
  std::vector<double> entered(kElements);
  for (int step = 0; step < 300; ++step) {
    const std::vector<Vector> gradients = random.Next();
    const Vector m = ranks.State(0, "m");
    ranks.ExchangeCompressed(gradients, OneBit());
    const float draw = random.Uniform();
    const double part = draw < -0.4f ? 0.0 : (draw < 0.2f ? 0.5 + draw : 1.0);
    for (size_t i = 0; i < kElements; ++i) {
      for (const Vector& gradient : gradients) given[i] += 0.1 * gradient[i] / double{kWorld};
      if (part > 0) entered[i] += ranks.reduced[i] - 0.9 * m[i];
    }
    ranks.Step(part);
  }
  const std::vector<double> kept = ranks.MeanState("worker_error");
  for (size_t i = 0; i < kElements; ++i) {
    EXPECT_NEAR(entered[i] + kept[i] + ranks.server_error()[i], given[i], 5e-5);
  }
}

TEST(OneBitAdam, NonfiniteGradientsCountAsZeroWhenCompressed) {
  for (const float bad : {kNan, kInf, -kInf}) {
    SimulatedRanks ranks(AdamConfig(0), {.elements = 3}, 2);
    SimulatedRanks with_zero(AdamConfig(0), {.elements = 3}, 2);
    ranks.ExchangeCompressed({{1, bad, 3}, {1, 1, 1}}, OneBit());
    with_zero.ExchangeCompressed({{1, 0, 3}, {1, 1, 1}}, OneBit());
    EXPECT_THAT(ranks.flagged, ElementsAre(true, false));
    EXPECT_EQ(ranks.inputs, with_zero.inputs);
    ranks.Step(0);
    with_zero.Step(0);
    EXPECT_EQ(ranks.State(0, "worker_error"), with_zero.State(0, "worker_error"));
    EXPECT_THAT(ranks.State(0, "m"), Each(0.0f));
  }
}

TEST(OneBitAdam, DenseGradientsThatAreNotFiniteArePassedOnAndNotStored) {
  SimulatedRanks ranks(AdamConfig(10), {.elements = 2}, 2);
  ranks.ExchangeDense({{1, 2}, {1, 2}});
  ranks.Step(1);
  const Vector m = ranks.State(0, "m");
  const Vector variance = ranks.State(0, "variance");
  // The last is finite, but its square is not.
  for (const float bad : {kNan, kInf, -kInf, 1e20f}) {
    ranks.ExchangeDense({{1, 1}, {1, bad}});
    EXPECT_FALSE(ranks.finite);
    for (const Vector& out : ranks.outs) {
      EXPECT_TRUE(std::isfinite(out[0]));
      EXPECT_FALSE(std::isfinite(out[1]));
    }
    ranks.Step(1);  // even if the job did not look
    EXPECT_EQ(ranks.State(0, "m"), m);
    EXPECT_EQ(ranks.State(0, "variance"), variance);
  }
}

// A result that the engine has turned into NaN, because a payload was flagged, does not become the momentum.
TEST(OneBitAdam, ResultsThatAreNotFiniteDoNotBecomeTheMomentum) {
  auto method = MakeTensorMethod(AdamConfig(0), {.elements = 2});
  const Vector gradient = {1, 2};
  Vector scratch(2);
  bool nonfinite = false;
  method->Before(false, gradient, absl::MakeSpan(scratch), &nonfinite);
  Vector out = {kNan, kNan};
  EXPECT_FALSE(method->AfterExchange(false, absl::MakeSpan(out)));
  EXPECT_THAT(out, Each(::testing::IsNan()));
  method->Skip();
  method->VisitState([](std::string_view, wire::MemoryRole, FloatVector* values) {
    for (const float value : *values) EXPECT_TRUE(std::isfinite(value));
  });
}

}  // namespace
}  // namespace terse
