// SPDX-License-Identifier: Apache-2.0
//
// Nothing of a gradient is lost: what an exchange did not send, what a skipped or clipped step did not
// apply and what stood beside a NaN comes with later steps.
//
// The tests apply steps as a job would (sum += applied * result), drain the residuals with zero gradients,
// and compare the sum with that of the gradients' exact means. A codec that needs many steps to drain
// (onebit, 1 bit quantization) is held to a bound that the loss of a single gradient would exceed.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/api/ranks.h"
#include "tests/matrix_shape.h"

namespace terse::testing {
namespace {

constexpr int kSize = 3;
constexpr size_t kN = 1500;
constexpr int kDrainSteps = 300;

// What a job's parameters would have moved by, and what they should have.
struct Movement {
  std::vector<double> applied = std::vector<double>(kN);
  std::vector<double> expected = std::vector<double>(kN);

  double error() const { return RelativeError(applied, expected); }
};

// The k-th step of a job: its gradient on this rank, and what it applies of the result.
struct Step {
  std::function<Vector(int rank)> gradient;
  double applied = 1;
  bool call_step = true;
};

// Elements that are not finite count as zero.
Vector Finite(Vector values) {
  for (float& value : values) {
    if (!std::isfinite(value)) value = 0;
  }
  return values;
}

bool AllFinite(const Vector& values) {
  for (const float value : values) {
    if (!std::isfinite(value)) return false;
  }
  return true;
}

bool AllNan(const Vector& values) {
  for (const float value : values) {
    if (!std::isnan(value)) return false;
  }
  return true;
}

Movement Train(const std::string& yaml, const std::vector<Step>& steps) {
  Movement movement;
  RunRanksOk(kSize, yaml, [&](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", MatrixShape(kN));
    Vector out(kN);
    for (const Step& step : steps) {
      const Vector gradient = step.gradient(rank);
      group.Allreduce(tensor, gradient.data(), out.data());
      if (step.call_step) group.Step(step.applied);
      bool any_nonfinite = false;
      for (int r = 0; r < kSize; ++r) any_nonfinite = any_nonfinite || !AllFinite(step.gradient(r));
      EXPECT_EQ(AllNan(out), any_nonfinite);
      EXPECT_EQ(AllFinite(out), !any_nonfinite);
      if (rank == 0 && !any_nonfinite) AddTo(&movement.applied, out, step.applied);
    }
    for (int i = 0; i < kDrainSteps; ++i) {
      group.Allreduce(tensor, nullptr, out.data());
      group.Step();
      if (rank == 0) AddTo(&movement.applied, out);
    }
  });
  for (const Step& step : steps) {
    const auto mean = MeanOverRanks(kSize, [&step](int rank) { return Finite(step.gradient(rank)); });
    for (size_t i = 0; i < kN; ++i) movement.expected[i] += mean[i];
  }
  return movement;
}

// Like training: a gradient that has a direction, and noise. So that what is lost adds up.
std::function<Vector(int)> Gradient(int step) {
  return [step](int rank) {
    Vector gradient = Noise(kN, 100, 0);
    const Vector noise = Noise(kN, rank, step);
    for (size_t i = 0; i < kN; ++i) gradient[i] += noise[i];
    return gradient;
  };
}

std::function<Vector(int)> Poisoned(int step, float value) {
  return [step, value](int rank) {
    Vector gradient = Gradient(step)(rank);
    if (rank == 1) gradient[kN / 2] = gradient[7] = value;
    return gradient;
  };
}

class EveryMemory : public ::testing::TestWithParam<CodecCase> {};
INSTANTIATE_TEST_SUITE_P(Residual, EveryMemory, ::testing::ValuesIn(CodecCasesWithMemory()),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(EveryMemory, NothingIsLostOverManySteps) {
  std::vector<Step> steps;
  for (int i = 0; i < 40; ++i) steps.push_back({Gradient(i)});
  EXPECT_LE(Train(GetParam().yaml, steps).error(), GetParam().drained_error);
}

TEST_P(EveryMemory, StepIsOptionalWhenEveryStepIsApplied) {
  std::vector<Step> steps;
  for (int i = 0; i < 40; ++i) steps.push_back({Gradient(i), 1, false});
  EXPECT_LE(Train(GetParam().yaml, steps).error(), GetParam().drained_error);
}

TEST_P(EveryMemory, SkippedStepsLoseNothing) {
  std::vector<Step> steps;
  for (int i = 0; i < 40; ++i) steps.push_back({Gradient(i), i % 3 == 1 ? 0.0 : 1.0});
  EXPECT_LE(Train(GetParam().yaml, steps).error(), GetParam().drained_error);
}

TEST_P(EveryMemory, ClippedStepsLoseNothing) {
  std::vector<Step> steps;
  for (int i = 0; i < 40; ++i) steps.push_back({Gradient(i), i % 4 == 1 ? 0.25 : i % 4 == 2 ? 0.5 : 1.0});
  EXPECT_LE(Train(GetParam().yaml, steps).error(), GetParam().drained_error);
}

TEST_P(EveryMemory, NonFiniteGradientReachesAllAndPoisonsNothing) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<Step> steps;
    for (int i = 0; i < 40; ++i) {
      if (i == 5 || i == 20) {
        steps.push_back({Poisoned(i, value), 0});
      } else {
        steps.push_back({Gradient(i)});
      }
    }
    EXPECT_LE(Train(GetParam().yaml, steps).error(), GetParam().drained_error) << value;
  }
}

// A job without a loss scaler does not look at the result; the library withholds it all the same.
TEST_P(EveryMemory, NonFiniteGradientOfAStepCalledAppliedLosesNothing) {
  std::vector<Step> steps;
  for (int i = 0; i < 40; ++i) {
    if (i == 7) {
      steps.push_back({Poisoned(i, std::numeric_limits<float>::quiet_NaN()), 1, i % 2 == 0});
    } else {
      steps.push_back({Gradient(i)});
    }
  }
  EXPECT_LE(Train(GetParam().yaml, steps).error(), GetParam().drained_error);
}

TEST(Residual, WithoutErrorFeedbackItIsLost) {
  // The other side of the tests above: they can fail.
  std::vector<Step> steps;
  for (int i = 0; i < 40; ++i) steps.push_back({Gradient(i)});
  for (const CodecCase& codec : CodecCasesWithMemory()) {
    if (codec.name.starts_with("fp16") || codec.name.starts_with("bf16")) continue;
    EXPECT_GT(Train(codec.yaml + "error_feedback: false\n", steps).error(), codec.drained_error)
        << codec.name;
  }
}

TEST(Residual, DenseTensorPassesNonFiniteElementsOn) {
  RunRanksOk(kSize, "compressor: none\n", [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {4});
    Vector gradient = {1, 2, 3, 4};
    if (rank == 1) gradient[2] = std::numeric_limits<float>::quiet_NaN();
    if (rank == 2) gradient[3] = std::numeric_limits<float>::infinity();
    Vector out(4);
    group.Allreduce(tensor, gradient.data(), out.data());
    EXPECT_FLOAT_EQ(out[0], 1);
    EXPECT_FLOAT_EQ(out[1], 2);
    EXPECT_TRUE(std::isnan(out[2]));
    EXPECT_TRUE(std::isinf(out[3]));
    group.Step(0);
    group.Allreduce(tensor, Vector{1, 2, 3, 4}.data(), out.data());
    EXPECT_TRUE(AllFinite(out));
  });
}

}  // namespace
}  // namespace terse::testing
