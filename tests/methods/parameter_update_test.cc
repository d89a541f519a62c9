// SPDX-License-Identifier: Apache-2.0
//
// What terse_optimizer_step does with a result: the learning rate and each method's weight decay.
#include <string>
#include <vector>

#include "compressors/methods/method.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace terse {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::IsEmpty;

wire::Config Config(wire::Method method, double weight_decay = 0, bool nesterov = false) {
  wire::Config config;
  config.method = method;
  config.dgc.weight_decay = weight_decay;
  config.dgc.nesterov = nesterov;
  config.adam.weight_decay = weight_decay;
  return config;
}

std::vector<std::string> StateNames(ParameterUpdate& update) {
  std::vector<std::string> names;
  update.VisitState([&](std::string_view name, wire::MemoryRole role, FloatVector*) {
    EXPECT_EQ(role, wire::MemoryRole::kReplicated);
    names.emplace_back(name);
  });
  return names;
}

TEST(ParameterUpdate, AllreduceIsPlainSgd) {
  auto update = MakeParameterUpdate(Config(wire::Method::kAllreduce, 0.5), 2);
  std::vector<float> w = {1, 2};
  update->Apply(std::vector<float>{4, -4}, 0.25, absl::MakeSpan(w));
  EXPECT_THAT(w, ElementsAre(0, 3));
  EXPECT_THAT(StateNames(*update), IsEmpty());
}

TEST(ParameterUpdate, WithoutWeightDecayDgcIsPlainSgd) {
  auto update = MakeParameterUpdate(Config(wire::Method::kDgc), 2);
  std::vector<float> w = {1, 2};
  update->Apply(std::vector<float>{4, -4}, 0.25, absl::MakeSpan(w));
  EXPECT_THAT(w, ElementsAre(0, 3));
  EXPECT_THAT(StateNames(*update), IsEmpty());
}

// B <- m B + lambda w; w <- w - rate (B + out), or with Nesterov (lambda w + m B + out).
TEST(ParameterUpdate, DgcKeepsWeightDecayInABufferOfItsOwn) {
  for (const bool nesterov : {false, true}) {
    auto update = MakeParameterUpdate(Config(wire::Method::kDgc, 0.5, nesterov), 1);
    EXPECT_THAT(StateNames(*update), ElementsAre("decay"));
    std::vector<float> w = {2};
    double expected_w = 2;
    double expected_b = 0;
    for (int step = 0; step < 5; ++step) {
      update->Apply(std::vector<float>{3}, 0.1, absl::MakeSpan(w));
      expected_b = 0.9 * expected_b + 0.5 * expected_w;
      expected_w -= 0.1 * ((nesterov ? 0.5 * expected_w + 0.9 * expected_b : expected_b) + 3);
      EXPECT_NEAR(w[0], expected_w, 1e-6);
    }
    update->VisitState(
        [&](std::string_view, wire::MemoryRole, FloatVector* b) { EXPECT_NEAR((*b)[0], expected_b, 1e-6); });
  }
}

// With no gradient and w held where it is, the step tends to rate lambda w / (1 - m).
TEST(ParameterUpdate, Oracle10DgcWeightDecayTendsToThatOfMomentumSgd) {
  for (const bool nesterov : {false, true}) {
    auto update = MakeParameterUpdate(Config(wire::Method::kDgc, 0.01, nesterov), 1);
    float moved = 0;
    for (int step = 0; step < 300; ++step) {
      std::vector<float> w = {1};
      update->Apply(std::vector<float>{0}, 0.5, absl::MakeSpan(w));
      moved = 1 - w[0];
    }
    EXPECT_NEAR(moved, 0.5 * 0.01 * 1 / (1 - 0.9), 1e-6);
  }
}

// The decay is in what arrives.
TEST(ParameterUpdate, WithLocalWeightDecayDgcIsPlainSgd) {
  wire::Config config = Config(wire::Method::kDgc, 0.5);
  config.dgc.decay = wire::DecayForm::kLocal;
  auto update = MakeParameterUpdate(config, 2);
  std::vector<float> w = {1, 2};
  update->Apply(std::vector<float>{4, -4}, 0.25, absl::MakeSpan(w));
  EXPECT_THAT(w, ElementsAre(0, 3));
  EXPECT_THAT(StateNames(*update), IsEmpty());
}

TEST(ParameterUpdate, AdamWeightDecayIsDecoupled) {
  auto update = MakeParameterUpdate(Config(wire::Method::kOneBitAdam, 0.5), 2);
  std::vector<float> w = {1, -2};
  update->Apply(std::vector<float>{4, 0}, 0.25, absl::MakeSpan(w));
  EXPECT_THAT(w, ElementsAre(FloatEq(1 - 0.25f * 4.5f), FloatEq(-2 + 0.25f)));
  EXPECT_THAT(StateNames(*update), IsEmpty());
}

}  // namespace
}  // namespace terse
