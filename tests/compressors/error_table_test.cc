// SPDX-License-Identifier: Apache-2.0
//
// Error tables against what encoding leaves behind, and those of powersgd against matrices whose singular
// values are known.
#include "compressors/errors/error_table.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "compressors/registry.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"
#include "tests/matrix_shape.h"

namespace terse {
namespace {

using ::terse::testing::AllCases;
using ::terse::testing::CodecCase;
using ::terse::testing::Normal;
using Vector = std::vector<float>;

double Square(const Vector& values) {
  double sum = 0;
  for (const float x : values) sum += double{x} * x;
  return sum;
}

// What one encoding leaves behind, the mean of some where it is random.
double Encoded(const CodecCase& test_case, const Vector& c, int times) {
  double sum = 0;
  for (int i = 0; i < times; ++i) {
    testing::Tensor tensor(test_case, c.size());
    tensor.Encode(c, {.seed = 7, .step = static_cast<uint64_t>(i)});
    sum += Square(tensor.residual());
  }
  return sum / times;
}

// Normal, with scales that differ between stretches as those of rows do; then ever heavier tails.
std::vector<testing::NamedVector> Gradients(size_t n) {
  std::vector<testing::NamedVector> all;
  const Vector normal = Normal(n, 3);
  all.push_back({"normal", normal});
  Vector stretches = normal;
  for (size_t i = 0; i < n; ++i) stretches[i] *= static_cast<float>(1 + i / 700 % 5);
  all.push_back({"stretches", stretches});
  Vector heavy = normal;
  for (float& x : heavy) x = x * x * x * 1e-3f;
  all.push_back({"heavy", heavy});
  Vector sparse = heavy;
  for (size_t i = 0; i < n; ++i) {
    if (i % 7 != 0) sparse[i] = 0;
  }
  all.push_back({"sparse", sparse});
  Vector shifted = normal;
  for (float& x : shifted) x += 3;
  all.push_back({"shifted", shifted});
  return all;
}

absl::StatusOr<std::vector<double>> One(const CodecCase& test_case, const Vector& c) {
  const std::vector<int64_t> shape = testing::MatrixShape(c.size());
  return SquaredErrors(test_case.codec->codec(), {test_case.params}, c, shape);
}

TEST(ErrorTable, IsNearWhatEncodingLeavesBehind) {
  for (const CodecCase& test_case : AllCases()) {
    // A power iteration from random directions is not yet what it comes to.
    if (test_case.codec->kind() == Kind::kLinear) continue;
    for (const testing::NamedVector& vector : Gradients(20000)) {
      SCOPED_TRACE(test_case.name + " of " + vector.name);
      const auto estimated = One(test_case, vector.values);
      ASSERT_TRUE(estimated.ok()) << estimated.status();
      const double encoded = Encoded(test_case, vector.values, 3);
      // Parts of the vector's own square that are lost in its rounding are no error of the codec's.
      EXPECT_NEAR((*estimated)[0], encoded, 0.06 * encoded + 1e-12 * Square(vector.values));
    }
  }
}

TEST(ErrorTable, OfALongVectorIsNearThoughOnlyPartsAreLookedAt) {
  const Vector c = Gradients(5 * kErrorSample)[2].values;
  for (const auto& [codec, bits, density] :
       {std::tuple(wire::Codec::kQuantize, 4u, 0.01), std::tuple(wire::Codec::kTopK, 4u, 0.01),
        std::tuple(wire::Codec::kTopK, 4u, 0.001), std::tuple(wire::Codec::kOneBit, 4u, 0.01)}) {
    CodecCase test_case{.codec = FindCompressor(codec), .params = {}, .name = "long"};
    test_case.params.bits = bits;
    test_case.params.density = density;
    if (codec == wire::Codec::kOneBit) test_case.params.block = 0;
    const auto estimated = One(test_case, c);
    ASSERT_TRUE(estimated.ok()) << estimated.status();
    const double encoded = Encoded(test_case, c, 1);
    EXPECT_NEAR((*estimated)[0], encoded, 0.1 * encoded) << wire::Name(codec) << ' ' << density;
  }
}

TEST(ErrorTable, OfManySettingsIsThatOfEach) {
  const Vector c = Gradients(5000)[2].values;
  std::vector<wire::CodecParams> settings(8);
  for (uint32_t b = 0; b < 8; ++b) {
    settings[b].bits = b + 1;
    settings[b].density = 0.001 * (b + 1) * (b + 1);
    settings[b].rank = b + 1;
  }
  for (const wire::Codec codec : {wire::Codec::kQuantize, wire::Codec::kTopK, wire::Codec::kPowerSgd}) {
    const auto all = SquaredErrors(codec, settings, c, {50, 100});
    ASSERT_TRUE(all.ok()) << all.status();
    for (size_t i = 0; i < settings.size(); ++i) {
      const auto one = SquaredErrors(codec, {settings[i]}, c, {50, 100});
      EXPECT_NEAR((*one)[0], (*all)[i], 1e-9 * (*all)[i]);
      if (i > 0) {
        EXPECT_LT((*all)[i], (*all)[i - 1]) << "more is sent, less is left";
      }
    }
  }
}

// `count` orthonormal vectors of n elements.
std::vector<std::vector<double>> Directions(size_t n, size_t count, std::mt19937* random) {
  std::normal_distribution<double> normal;
  std::vector<std::vector<double>> all;
  while (all.size() < count) {
    std::vector<double> v(n);
    for (double& x : v) x = normal(*random);
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& other : all) {
        double dot = 0;
        for (size_t i = 0; i < n; ++i) dot += v[i] * other[i];
        for (size_t i = 0; i < n; ++i) v[i] -= dot * other[i];
      }
    }
    double square = 0;
    for (const double x : v) square += x * x;
    for (double& x : v) x /= std::sqrt(square);
    all.push_back(v);
  }
  return all;
}

TEST(ErrorTable, OfPowerSgdIsWhatSingularValuesLeave) {
  std::mt19937 random(5);
  struct Shape {
    size_t rows, columns;
    double near;
  };
  // Narrow ones are exact; of wide ones it is an iteration's.
  for (const Shape& shape : {Shape{200, 40, 1e-5}, Shape{40, 200, 1e-5}, Shape{9, 7, 1e-5},
                             Shape{420, 300, 0.05}, Shape{300, 420, 0.05}}) {
    const size_t width = std::min(shape.rows, shape.columns);
    for (const double decay : {0.8, 0.97, 0.999}) {
      SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + ", " +
                   std::to_string(decay));
      const auto left = Directions(shape.rows, width, &random);
      const auto right = Directions(shape.columns, width, &random);
      std::vector<double> values(width);
      for (size_t i = 0; i < width; ++i) values[i] = 3 * std::pow(decay, static_cast<double>(i));
      Vector c(shape.rows * shape.columns);
      for (size_t r = 0; r < shape.rows; ++r) {
        for (size_t j = 0; j < shape.columns; ++j) {
          double sum = 0;
          for (size_t i = 0; i < width; ++i) sum += values[i] * left[i][r] * right[i][j];
          c[r * shape.columns + j] = static_cast<float>(sum);
        }
      }
      std::vector<wire::CodecParams> settings(5);
      const std::vector<uint32_t> ranks = {1, 2, 4, 8, 16};
      for (size_t i = 0; i < ranks.size(); ++i) settings[i].rank = ranks[i];
      const auto estimated =
          SquaredErrors(wire::Codec::kPowerSgd, settings, c,
                        {static_cast<int64_t>(shape.rows), static_cast<int64_t>(shape.columns)});
      ASSERT_TRUE(estimated.ok()) << estimated.status();
      for (size_t i = 0; i < ranks.size(); ++i) {
        double kept = 0;
        for (size_t k = ranks[i]; k < width; ++k) kept += values[k] * values[k];
        EXPECT_NEAR((*estimated)[i], kept, shape.near * kept + 1e-5 * Square(c)) << "rank " << ranks[i];
      }
    }
  }
}

TEST(ErrorTable, OfNothingIsNothing) {
  for (const CodecCase& test_case : AllCases()) {
    for (const size_t n : {0, 1, 7, 1000}) {
      const auto estimated = One(test_case, Vector(n, 0.0f));
      ASSERT_TRUE(estimated.ok()) << test_case.name << estimated.status();
      EXPECT_EQ((*estimated)[0], 0) << test_case.name << ' ' << n;
    }
  }
}

TEST(ErrorTable, WhatIsNotFiniteCountsAsNothing) {
  for (const CodecCase& test_case : AllCases()) {
    Vector c = Normal(1000, 1);
    c[10] = 0;
    c[500] = 0;
    const auto clean = One(test_case, c);
    c[10] = std::numeric_limits<float>::infinity();
    c[500] = std::numeric_limits<float>::quiet_NaN();
    const auto estimated = One(test_case, c);
    ASSERT_TRUE(clean.ok() && estimated.ok());
    EXPECT_EQ((*estimated)[0], (*clean)[0]) << test_case.name;
  }
}

TEST(ErrorTable, WrongArgumentsAreRefused) {
  const Vector c(10, 1.0f);
  wire::CodecParams params;
  EXPECT_EQ(SquaredErrors(wire::Codec::kTopK, {params}, c, {3, 3}).status().code(),
            absl::StatusCode::kInvalidArgument);
  params.density = 2;
  EXPECT_EQ(SquaredErrors(wire::Codec::kTopK, {params}, c, {10}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SquaredErrors(static_cast<wire::Codec>(200), {params}, c, {10}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace terse
