// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/gradient_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace terse::cli {
namespace {

std::vector<float> Make(uint64_t seed, int rank, uint64_t repetition, size_t n = 200000) {
  std::vector<float> out(n);
  GradientSource(seed, rank).Fill(repetition, out.data(), out.size());
  return out;
}

TEST(GradientSource, DependsOnSeedRankAndRepetition) {
  EXPECT_EQ(Make(1, 0, 0), Make(1, 0, 0));
  EXPECT_NE(Make(1, 0, 0), Make(2, 0, 0));
  EXPECT_NE(Make(1, 0, 0), Make(1, 1, 0));
  EXPECT_NE(Make(1, 0, 0), Make(1, 0, 1));
}

TEST(GradientSource, IsFiniteNonZeroAndBalanced) {
  size_t negative = 0;
  for (const float value : Make(3, 0, 0)) {
    ASSERT_TRUE(std::isfinite(value));
    ASSERT_NE(value, 0);
    negative += value < 0;
  }
  EXPECT_NEAR(static_cast<double>(negative), 100000, 2000);
}

TEST(GradientSource, IsHeavyTailed) {
  // Kurtosis of a normal distribution is 3, of Laplace's 6; mixing scales raises it further.
  double second = 0;
  double fourth = 0;
  const std::vector<float> values = Make(4, 0, 0, 1'000'000);
  for (const float value : values) {
    second += std::pow(value, 2);
    fourth += std::pow(value, 4);
  }
  EXPECT_GT(fourth * values.size() / (second * second), 5.5);
}

}  // namespace
}  // namespace terse::cli
