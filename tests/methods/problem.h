// SPDX-License-Identifier: Apache-2.0
//
// The training that the methods are compared with their double-precision models on: each of four ranks pulls
// the parameters towards a target of its own, so that gradients depend on all that happened before.
#ifndef TERSE_TESTS_METHODS_PROBLEM_H_
#define TERSE_TESTS_METHODS_PROBLEM_H_

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/methods/simulation.h"

namespace terse {

inline constexpr size_t kWorld = 4;
inline constexpr size_t kElements = 48;
inline constexpr int kSteps = 200;

using Doubles = std::vector<double>;

// The gradient of rank r at w: curvature_i (w_i - target_ri) + noise.
class Problem {
 public:
  Problem() : random_(kWorld, kElements, 43), targets_(random_.Next()), curvature_(kElements) {
    for (size_t i = 0; i < kElements; ++i) curvature_[i] = 0.1f + 0.9f * static_cast<float>(i) / kElements;
  }
  void NextStep() { noise_ = random_.Next(); }
  template <typename Number>
  std::vector<std::vector<Number>> Gradients(const std::vector<Number>& w) const {
    std::vector<std::vector<Number>> gradients(kWorld, std::vector<Number>(kElements));
    for (size_t rank = 0; rank < kWorld; ++rank) {
      for (size_t i = 0; i < kElements; ++i) {
        gradients[rank][i] = curvature_[i] * (w[i] - targets_[rank][i]) + Number(0.25) * noise_[rank][i];
      }
    }
    return gradients;
  }

 private:
  RandomGradients random_;
  const std::vector<Vector> targets_;
  Vector curvature_;
  std::vector<Vector> noise_;
};

// What 200 steps of fp32 add up to; a wrong term shows at once as 1e-2 and more.
inline constexpr double kTolerance = 1e-4;

inline void ExpectNear(const Vector& actual, const Doubles& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], kTolerance * (1 + std::fabs(expected[i]))) << what << " " << i;
  }
}

// Applied, skipped and clipped steps in turn, the same for run and model.
inline double Applied(int step) { return step % 13 == 5 ? 0.0 : (step % 17 == 3 ? 0.5 : 1.0); }

}  // namespace terse

#endif  // TERSE_TESTS_METHODS_PROBLEM_H_
