// SPDX-License-Identifier: Apache-2.0
//
// Gradients in fp16, bf16 and fp64, by every method and codec: memory is fp32 whatever the type, so a result
// is that of the same values in fp32, rounded once.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "tests/api/ranks.h"

namespace terse::testing {
namespace {

constexpr size_t kN = 2000;
constexpr uint16_t kHalfInfinity = 0x7c00;
constexpr uint16_t kGreatestHalf = 0x7bff;  // 65504

// To nearest, ties to even, with the steps of one type written down: 2^(e - bits), e the exponent but at
// least `least`. `factor` undoes the type's greatest power of two for what has no exponent left.
double RoundedTo(double value, int bits, int least) {
  if (value == 0 || !std::isfinite(value)) return value;
  const int exponent = std::max(std::ilogb(value), least);
  const double step = std::ldexp(1.0, exponent - bits);
  return std::nearbyint(value / step) * step;
}

// A type of the interface: how a test writes and reads it.
struct Half {
  using Storage = uint16_t;
  static constexpr terse_dtype_t kType = TERSE_FLOAT16;
  static double Round(double value) { return RoundedTo(value, 10, -14); }
  static uint16_t Store(double value) {
    const double rounded = Round(value);
    const auto sign = static_cast<uint16_t>(std::signbit(rounded) ? 0x8000 : 0);
    const double magnitude = std::fabs(rounded);
    if (magnitude < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<uint16_t>(magnitude * 0x1p24));
    const int exponent = std::ilogb(magnitude);
    const auto fraction = static_cast<uint16_t>((std::ldexp(magnitude, -exponent) - 1) * 1024);
    return static_cast<uint16_t>(sign | (exponent + 15) << 10 | fraction);
  }
  static double Load(uint16_t half) {
    const double sign = (half & 0x8000) != 0 ? -1 : 1;
    const int exponent = half >> 10 & 0x1f;
    const double fraction = half & 0x3ff;
    if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : NAN;
    return sign * (exponent == 0 ? fraction * 0x1p-24 : std::ldexp(1024 + fraction, exponent - 25));
  }
};
struct BFloat {
  using Storage = uint16_t;
  static constexpr terse_dtype_t kType = TERSE_BFLOAT16;
  static double Round(double value) { return RoundedTo(value, 7, -126); }
  static uint16_t Store(double value) {
    return static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(Round(value))) >> 16);
  }
  static double Load(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
};
struct Double {
  using Storage = double;
  static constexpr terse_dtype_t kType = TERSE_FLOAT64;
  static double Round(double value) { return value; }
  static double Store(double value) { return value; }
  static double Load(double value) { return value; }
};

const char* const kConfigurations[] = {
    "compressor: none\ndense: deterministic\n",
    "compressor: fp16\nmin_elements: 1\n",
    "compressor: topk\ntopk: {density: 0.05}\nmin_elements: 1\n",
    "compressor: onebit\nmin_elements: 1\n",
    "compressor: quantize\nmin_elements: 1\n",
    "method: dgc\ndgc: {density: 0.05}\nmin_elements: 1\n",
    "method: dgc\ndgc: {density: 0.05}\nmin_elements: 100000\ndense: deterministic\n",
    "method: onebit_adam\nadam: {freeze: 3}\nmin_elements: 1\ndense: deterministic\n",
};

template <typename T>
class DTypes : public ::testing::Test {};
using Types = ::testing::Types<Half, BFloat, Double>;
TYPED_TEST_SUITE(DTypes, Types);

TYPED_TEST(DTypes, EveryMethodGivesTheResultOfFp32RoundedOnce) {
  using Storage = typename TypeParam::Storage;
  for (const char* yaml : kConfigurations) {
    SCOPED_TRACE(yaml);
    RunRanksOk(3, yaml, [](Group& group, int rank) {
      const TensorId single = group.Register("single", {kN});
      const TensorId other = group.Register("other", {kN}, TypeParam::kType);
      Vector single_out(kN);
      std::vector<Storage> gradient(kN);
      std::vector<Storage> out(kN);
      for (int step = 0; step < 8; ++step) {
        Vector same = Noise(kN, rank, step);
        for (size_t i = 0; i < kN; ++i) {
          gradient[i] = TypeParam::Store(static_cast<double>(same[i]));
          same[i] = static_cast<float>(TypeParam::Load(gradient[i]));
        }
        group.Allreduce(single, same.data(), single_out.data());
        group.Allreduce(other, gradient.data(), out.data());
        for (size_t i = 0; i < kN; ++i) {
          const double value = TypeParam::Load(out[i]);
          // fp64 without compression has its own, finer sum.
          const double tolerance = std::is_same_v<Storage, double> ? 1e-6 : 0.0;
          ASSERT_NEAR(value, TypeParam::Round(static_cast<double>(single_out[i])), tolerance)
              << "step " << step << ", element " << i;
        }
        group.Step(step == 5 ? 0 : 1);
      }
    });
  }
}

// A loss scale moves exponents, so with a power of two it changes no bit; with another factor it may change
// roundings. Only that: the results stay together while the scale changes from step to step.
TEST(LossScale, ChangesNothingButRounding) {
  for (const char* yaml : kConfigurations) {
    if (std::strstr(yaml, "topk") != nullptr || std::strstr(yaml, "dgc") != nullptr ||
        std::strstr(yaml, "onebit") != nullptr) {
      continue;  // a rounding may decide which element is sent, or a sign: every_method_test compares those
                 // exactly
    }
    SCOPED_TRACE(yaml);
    std::vector<Vector> runs[2];
    for (const bool scaled : {false, true}) {
      RunRanksOk(3, yaml, [&](Group& group, int rank) {
        const TensorId tensor = group.Register("weight", {kN});
        Vector out(kN);
        for (int step = 0; step < 10; ++step) {
          const float scale = scaled ? 1000.0f * static_cast<float>(step + 1) : 1.0f;
          group.SetLossScale(scale);
          Vector gradient = Noise(kN, rank, step);
          for (float& g : gradient) g *= scale;
          group.Allreduce(tensor, gradient.data(), out.data());
          group.Step();
          for (float& g : out) g /= scale;
          if (rank == 0) runs[scaled ? 1 : 0].push_back(out);
        }
      });
    }
    for (size_t step = 0; step < runs[0].size(); ++step) {
      const std::vector<double> expected(runs[0][step].begin(), runs[0][step].end());
      // quantize: a rounding may move an element by one of its 15 levels.
      EXPECT_LT(RelativeError(runs[1][step], expected),
                std::strstr(yaml, "quantize") != nullptr ? 0.02 : 2e-3)
          << step;
    }
  }
}

TEST(Fp16, WhatAResultCannotHoldComesLater) {
  RunRanksOk(2, "compressor: fp16\nmin_elements: 1\n", [](Group& group, int) {
    const TensorId tensor = group.Register("weight", {2}, TERSE_FLOAT16);
    std::vector<uint16_t> gradient = {Half::Store(40000), Half::Store(1)};
    std::vector<uint16_t> out(2);
    // 40000 at a loss scale of 1/2 is a gradient of 80000. The codec is fp16 itself and sends 65504 of it;
    // the skipped step returns that.
    group.SetLossScale(0.5);
    group.Allreduce(tensor, gradient.data(), out.data());
    group.Step(0);
    EXPECT_EQ(Half::Load(out[0]), 65504 / 2);
    gradient = {Half::Store(0), Half::Store(0)};
    group.SetLossScale(1);
    group.Allreduce(tensor, gradient.data(), out.data());
    group.Step(1);
    EXPECT_EQ(out[0], kGreatestHalf);
    group.Allreduce(tensor, gradient.data(), out.data());
    group.Step(1);
    EXPECT_EQ(Half::Load(out[0]), 80000 - 65504);
  });
}

// topk sends 120000 as it is, which fp16 cannot hold: every rank sees the excess, and together they keep it
// once, unless the step is skipped and the gradient returns whole.
TEST(Fp16, AnExcessOfTheResultWaitsInTheResidual) {
  for (const std::string reduce : {"mean", "sum"}) {
    SCOPED_TRACE(reduce);
    const std::string yaml = "compressor: topk\ntopk: {density: 1.0e-3}\nmin_elements: 1\nreduce: " + reduce;
    RunRanksOk(2, yaml, [&](Group& group, int) {
      const TensorId tensor = group.Register("weight", {1000}, TERSE_FLOAT16);
      std::vector<uint16_t> gradient(1000);
      std::vector<uint16_t> out(1000);
      const auto exchange = [&](double value, double scale, double applied) {
        gradient[3] = Half::Store(value * scale);
        group.SetLossScale(scale);
        group.Allreduce(tensor, gradient.data(), out.data());
        group.Step(applied);
        return Half::Load(out[3]);
      };
      exchange(reduce == "sum" ? 60000 : 120000, 0.5, 0);
      EXPECT_EQ(exchange(0, 1, 0), 65504);
      EXPECT_EQ(exchange(0, 1, 1), 65504) << "all of it was back";
      EXPECT_EQ(exchange(0, 1, 1), Half::Round(120000 - 65504));
      EXPECT_EQ(exchange(0, 1, 1), 0);
    });
  }
}

TEST(Fp16, WithoutAResidualAnOverflowIsInf) {
  for (const char* yaml :
       {"compressor: none\n", "compressor: topk\nerror_feedback: false\nmin_elements: 1\n"}) {
    RunRanksOk(2, std::string(yaml) + "reduce: sum\n", [](Group& group, int) {
      const TensorId tensor = group.Register("weight", {2}, TERSE_FLOAT16);
      const uint16_t gradient[2] = {Half::Store(-40000), Half::Store(1)};
      uint16_t out[2] = {};
      group.Allreduce(tensor, gradient, out);
      EXPECT_EQ(out[0], kHalfInfinity | 0x8000) << "as any fp16 all-reduce: a loss scaler sees it";
    });
  }
}

TEST(Float64, DenseKeepsItsPrecision) {
  RunRanksOk(2, "compressor: none\n", [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {2}, TERSE_FLOAT64);
    const double gradient[] = {1.0 + rank * 0x1p-40, 1e300};
    double out[2] = {};
    group.Allreduce(tensor, gradient, out);
    EXPECT_EQ(out[0], 1.0 + 0x1p-41);
    EXPECT_EQ(out[1], 1e300);
  });
}

TEST(Float64, BeyondFp32IsNotFiniteWhenCompressed) {
  RunRanksOk(2, "compressor: quantize\nmin_elements: 1\n", [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {2}, TERSE_FLOAT64);
    double gradient[] = {1, rank == 1 ? 1e300 : 1.0};
    double out[2] = {};
    group.Allreduce(tensor, gradient, out);
    EXPECT_TRUE(std::isnan(out[0]));
    group.Step(0);
    gradient[1] = 1;
    group.Allreduce(tensor, gradient, out);
    EXPECT_TRUE(std::isfinite(out[1])) << "and nothing of it was kept";
  });
}

}  // namespace
}  // namespace terse::testing
