// SPDX-License-Identifier: Apache-2.0
//
// 1-bit Adam from the warm-up to the compressed stage and back: what is handed on, tensors and coordinates
// without variance, one rank, bias correction, exact resume.
#include <cmath>

#include "compressors/methods/onebit_adam.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/methods/simulation.h"

namespace terse {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::IsEmpty;

wire::Config AdamConfig(int64_t freeze) {
  wire::Config config;
  config.method = wire::Method::kOneBitAdam;
  config.adam.freeze = freeze;
  return config;
}

// One exchange and its end, the way the method wants it. True when it was compressed.
bool Train(SimulatedRanks& ranks, const std::vector<Vector>& gradients, double applied = 1.0) {
  ranks.Exchange(gradients, OneBit());
  ranks.Step(applied);
  return !ranks.payloads.empty();
}

// With b1 = 0 what a step delivers is the momentum itself: over freeze and unfreeze all of it arrives, and
// nothing is left.
TEST(OneBitAdamStages, NothingIsLostWhenTheVarianceFreezesAndUnfreezes) {
  constexpr size_t kElements = 24;
  constexpr size_t kWorld = 4;
  wire::Config config = AdamConfig(5);
  config.adam.beta1 = 0;
  SimulatedRanks ranks(config, {.elements = kElements}, kWorld);
  ranks.UseServer();
  RandomGradients random(kWorld, kElements, 5);
  std::vector<double> given(kElements);
  std::vector<double> arrived(kElements);
  int compressed = 0;
  for (int step = 0; step < 60; ++step) {
    if (step == 20 || step == 40) ranks.Unfreeze();
    const double applied = step % 7 == 4 || step == 40 ? 0.0 : 1.0;
    const std::vector<Vector> gradients = random.Next();
    const bool was_compressed = Train(ranks, gradients, applied);
    compressed += was_compressed;
    for (size_t i = 0; i < kElements; ++i) {
      // A dense step that is skipped drops its gradient.
      const bool counts = applied > 0 || was_compressed;
      for (const Vector& gradient : gradients) given[i] += counts ? gradient[i] / double{kWorld} : 0.0;
      if (applied > 0) arrived[i] += ranks.reduced[i];
    }
    if (step == 20 || step == 41) {
      for (size_t i = 0; i < kElements; ++i) EXPECT_NEAR(arrived[i], given[i], 1e-5);
      EXPECT_THAT(ranks.method(1).residual(), IsEmpty());
      EXPECT_THAT(ranks.server_error(), Each(0.0f));
    }
  }
  EXPECT_GT(compressed, 30);
}

TEST(OneBitAdamStages, TheVarianceMovesAgainFromWhereItWasFrozen) {
  SimulatedRanks ranks(AdamConfig(3), {.elements = 2}, 2);
  const std::vector<Vector> gradients = {{1, 2}, {1, 2}};
  for (int step = 0; step < 5; ++step) EXPECT_EQ(Train(ranks, gradients), step >= 3);
  const Vector frozen = ranks.State(0, "variance");
  ranks.Unfreeze();
  EXPECT_FALSE(Train(ranks, gradients)) << "hands the errors on";
  EXPECT_EQ(ranks.State(0, "variance"), frozen);
  for (int step = 0; step < 3; ++step) {
    EXPECT_FALSE(Train(ranks, gradients));
    EXPECT_GT(ranks.State(0, "variance")[0], frozen[0]);
  }
  EXPECT_TRUE(Train(ranks, gradients));
}

TEST(OneBitAdamStages, ATensorUnusedBetweenUnfreezeAndFreezeKeepsItsErrors) {
  auto method = MakeTensorMethod(AdamConfig(1), {.elements = 2});
  Vector scratch(2);
  bool nonfinite = false;
  method->Before(false, Vector{1, 2}, absl::MakeSpan(scratch), &nonfinite);
  method->residual()[1] = 5;
  Vector out = {1, 1};
  method->AfterExchange(false, absl::MakeSpan(out));
  method->Resolve(1);
  method->VisitState([](std::string_view name, wire::MemoryRole, FloatVector* values) {
    if (name == "variance") (*values)[0] = 1;
  });
  method->Unfreeze();
  EXPECT_TRUE(method->WantsDense(0));
  method->Freeze(1);
  EXPECT_FALSE(method->WantsDense(0));
  EXPECT_THAT(method->residual(), ElementsAre(0, 5));
}

// Coordinate 1 has no gradient before the freeze, and must get where it is to go all the same.
TEST(OneBitAdamStages, ACoordinateWithoutVarianceStillTrains) {
  constexpr int kFreeze = 50;
  SimulatedRanks ranks(AdamConfig(kFreeze), {.elements = 8}, 2);
  ranks.UseServer();
  RandomGradients random(2, 8, 7);
  Vector w(8);
  float furthest = 0;
  for (int step = 0; step < 2000; ++step) {
    std::vector<Vector> gradients = random.Next();
    for (Vector& gradient : gradients) {
      for (size_t i = 0; i < 8; ++i) gradient[i] = w[i] - 1 + 0.1f * gradient[i];
      if (step < kFreeze) gradient[1] = 0;
    }
    Train(ranks, gradients);
    if (step <= kFreeze) {
      EXPECT_EQ(ranks.State(0, "variance")[1], 0);
    }
    for (size_t i = 0; i < 8; ++i) w[i] -= 0.001f * ranks.outs[0][i];
    furthest = std::max(furthest, std::fabs(w[1]));
  }
  EXPECT_NEAR(w[1], 1, 0.2);
  EXPECT_LT(furthest, 1.5);
}

// A whole tensor without variance warms up by itself, as long as the group did, and is never divided by eps.
TEST(OneBitAdamStages, ATensorWithoutVarianceWarmsUpLater) {
  constexpr int kFreeze = 20;
  SimulatedRanks ranks(AdamConfig(kFreeze), {.elements = 6}, 2);
  RandomGradients random(2, 6, 9);
  const auto train = [&](bool used, double applied) {
    const bool compressed = Train(ranks, used ? random.Next() : std::vector<Vector>(2, Vector(6)), applied);
    for (const float value : ranks.outs[0]) EXPECT_LT(std::fabs(value), 40);
    return compressed;
  };
  for (int step = 0; step < 2 * kFreeze; ++step) EXPECT_FALSE(train(false, 1));
  EXPECT_TRUE(ranks.freeze().frozen());
  for (int step = 0; step < kFreeze; ++step) {
    EXPECT_FALSE(train(true, 0)) << "a skipped step does not count";
    EXPECT_FALSE(train(true, 1));
  }
  const Vector variance = ranks.State(0, "variance");
  for (int step = 0; step < 5; ++step) EXPECT_TRUE(train(true, 1));
  EXPECT_EQ(ranks.State(0, "variance"), variance);
}

TEST(OneBitAdamStages, ALateTensorWarmsUpNoLongerThanTheVarianceRemembers) {
  wire::Config config = AdamConfig(1);
  config.adam.beta2 = 0.75;  // remembers 4 steps
  SimulatedRanks ranks(config, {.elements = 2}, 1);
  ranks.method(0).Freeze(1000);
  int dense = 0;
  while (!Train(ranks, {{1, -1}})) ++dense;
  EXPECT_EQ(dense, 4);
}

// One rank: nothing is compressed, but v is frozen, so that the method is the same.
TEST(OneBitAdamStages, OneRankFreezesTheVarianceAndCompressesNothing) {
  SimulatedRanks alone(AdamConfig(5), {.elements = 4, .dense = true, .one_rank = true}, 1);
  SimulatedRanks lossless(AdamConfig(5), {.elements = 4}, 1);
  RandomGradients random(1, 4, 11);
  Vector frozen;
  for (int step = 0; step < 30; ++step) {
    const std::vector<Vector> gradients = random.Next();
    alone.ExchangeDense(gradients);
    lossless.Exchange(gradients, Lossless());
    EXPECT_EQ(alone.outs, lossless.outs) << step;
    alone.Step(1);
    lossless.Step(1);
    if (step == 4) frozen = alone.State(0, "variance");
  }
  EXPECT_EQ(alone.State(0, "variance"), frozen);
  EXPECT_THAT(alone.StateNames(0), ElementsAre("m", "variance"));
  alone.Unfreeze();
  alone.ExchangeDense({{1, 1, 1, 1}});
  alone.Step(1);
  EXPECT_NE(alone.State(0, "variance"), frozen);
}

// Oracle 4, its second half: -1e-3. After the freeze m's correction goes on, v's stays.
TEST(OneBitAdamStages, BiasCorrection) {
  wire::Config config = AdamConfig(2);
  config.adam.bias_correction = true;
  SimulatedRanks ranks(config, {.elements = 1}, 1);
  ranks.ExchangeDense({{1}});
  EXPECT_THAT(ranks.outs[0], ElementsAre(FloatEq(1)));
  ranks.Step(1);
  ranks.ExchangeDense({{3}});
  ranks.Step(0);  // a skipped step corrects nothing
  ranks.ExchangeDense({{1}});
  EXPECT_THAT(ranks.outs[0], ElementsAre(FloatEq(1)));
  ranks.Step(1);
  for (int step = 3; step < 50; ++step) {
    ranks.ExchangeCompressed({{1}}, Lossless());
    EXPECT_NEAR(ranks.outs[0][0], 1, 1e-5) << step;
    ranks.Step(1);
  }
}

// The sum that the criterion needs is taken while the new variance is in the cache; it is that of v.
TEST(OneBitAdamStages, TheNormOfTheVarianceIsThatOfTheState) {
  constexpr size_t kElements = 10001;  // several chunks and a rest
  SimulatedRanks ranks(AdamConfig(100), {.elements = kElements}, 1);
  RandomGradients random(1, kElements, 13);
  TensorMethod& method = ranks.method(0);
  EXPECT_EQ(method.VarianceNorm(), 0);
  for (int step = 1; step <= 3; ++step) {
    const double before = method.VarianceNorm();
    ranks.ExchangeDense(random.Next());
    const double fused = method.VarianceNorm();
    EXPECT_NE(fused, before);
    ranks.Step(1);
    EXPECT_EQ(method.VarianceNorm(), fused);
    double sum = 0;
    for (const float v : ranks.State(0, "variance")) sum += v;  // visiting makes the method forget its sum
    EXPECT_EQ(method.VarianceNorm(), fused);
    EXPECT_NEAR(fused, sum / (1 - std::pow(0.999, step)), 1e-9 * fused);
    ranks.ExchangeDense(random.Next());
    ranks.Step(0);
    EXPECT_EQ(method.VarianceNorm(), fused) << "a skipped step moves no variance";
  }
  SimulatedRanks dense(AdamConfig(100), {.elements = 4, .dense = true}, 1);
  dense.ExchangeDense(std::vector<Vector>(1, Vector(4, 1)));
  EXPECT_EQ(dense.method(0).VarianceNorm(), 0) << "its variance is never frozen";
}

// State copied into a fresh job continues bit by bit, wherever it was taken.
TEST(OneBitAdamStages, ResumesExactly) {
  constexpr size_t kElements = 32;
  constexpr int kUnfreeze = 30;
  wire::Config config = AdamConfig(wire::Config::Adam::kAuto);
  config.adam.beta2 = 0.9;
  config.adam.bias_correction = true;
  config.adam.lr_warmup_steps = 14;
  const auto gradients_of = [&](int step, bool used) {
    std::vector<Vector> gradients = RandomGradients(2, kElements, 100 + step).Next();
    if (!used) gradients.assign(2, Vector(kElements));
    return gradients;
  };
  // The second tensor is used from step 25 on, so that it has a warm-up of its own.
  for (const int first_use : {0, 25}) {
    bool compressed_before = false;
    for (const int saved_before : {1, 7, 13, 20, 27, kUnfreeze, kUnfreeze + 1, 35, 60}) {
      SimulatedRanks whole(config, {.elements = kElements}, 2);
      SimulatedRanks resumed(config, {.elements = kElements}, 2);
      for (SimulatedRanks* each : {&whole, &resumed}) each->UseServer();
      for (int step = 0; step < 80; ++step) {
        if (step == kUnfreeze) whole.Unfreeze();
        if (step == saved_before) {
          resumed.CopyStateFrom(whole);
        } else if (step == kUnfreeze && step > saved_before) {
          resumed.Unfreeze();
        }
        const double applied = step % 11 == 3 ? 0.0 : 1.0;
        const bool compressed = Train(whole, gradients_of(step, step >= first_use), applied);
        if (step < kUnfreeze) compressed_before |= compressed;
        if (step < saved_before) continue;
        ASSERT_EQ(Train(resumed, gradients_of(step, step >= first_use), applied), compressed);
        ASSERT_EQ(resumed.outs, whole.outs) << "step " << step << ", saved before " << saved_before;
      }
      EXPECT_EQ(resumed.freeze().state(), whole.freeze().state());
    }
    EXPECT_EQ(compressed_before, first_use == 0);
  }
}

}  // namespace
}  // namespace terse
