// SPDX-License-Identifier: Apache-2.0
#include "compressors/orthonormalize.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::Normal;

using Columns = std::vector<std::vector<float>>;

Columns Orthonormal(const Columns& columns, uint64_t key = 1) {
  const size_t n = columns[0].size();
  std::vector<float> flat;
  for (const auto& column : columns) flat.insert(flat.end(), column.begin(), column.end());
  std::vector<double> scratch(n);
  Orthonormalize(n, columns.size(), key, flat.data(), scratch.data());
  Columns result;
  for (size_t k = 0; k < columns.size(); ++k) {
    result.emplace_back(flat.begin() + static_cast<ptrdiff_t>(k * n),
                        flat.begin() + static_cast<ptrdiff_t>((k + 1) * n));
  }
  return result;
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

void ExpectOrthonormal(const Columns& columns) {
  for (size_t j = 0; j < columns.size(); ++j) {
    for (size_t k = 0; k < columns.size(); ++k) {
      ASSERT_NEAR(Dot(columns[j], columns[k]), j == k ? 1.0 : 0.0, 1e-6) << j << ", " << k;
    }
  }
}

// |column - its projection on `basis`| / |column|.
double Outside(std::vector<float> column, const Columns& basis) {
  const double norm = std::sqrt(Dot(column, column));
  for (const auto& b : basis) {
    const double part = Dot(b, column);
    for (size_t i = 0; i < column.size(); ++i) column[i] -= static_cast<float>(part * b[i]);
  }
  return std::sqrt(Dot(column, column)) / norm;
}

std::vector<float> Scaled(std::vector<float> column, float by) {
  for (float& x : column) x *= by;
  return column;
}

TEST(Orthonormalize, KeepsTheSpanInOrder) {
  const Columns in = {Normal(50, 1), Normal(50, 2), Normal(50, 3)};
  const Columns out = Orthonormal(in);
  ExpectOrthonormal(out);
  EXPECT_LE(Outside(in[0], {out[0]}), 1e-6);
  EXPECT_LE(Outside(in[1], {out[0], out[1]}), 1e-6);
  EXPECT_LE(Outside(in[2], out), 1e-6);
  EXPECT_GT(Dot(in[0], out[0]), 0);
}

TEST(Orthonormalize, SquareAndSmall) {
  ExpectOrthonormal(Orthonormal({{3.0f}}));
  ExpectOrthonormal(Orthonormal({{3.0f, 4.0f}, {-4.0f, 3.5f}}));
  ExpectOrthonormal(Orthonormal({Normal(9, 1), Normal(9, 2), Normal(9, 3), Normal(9, 4), Normal(9, 5),
                                 Normal(9, 6), Normal(9, 7), Normal(9, 8), Normal(9, 9)}));
}

TEST(Orthonormalize, ScaleDoesNotMatter) {
  for (const float scale : {1e-37f, 1e-20f, 1e20f, 1e27f}) {
    SCOPED_TRACE(scale);
    const Columns in = {Scaled(Normal(100, 1), scale), Normal(100, 2), Scaled(Normal(100, 3), 1 / scale)};
    const Columns out = Orthonormal(in);
    ExpectOrthonormal(out);
    EXPECT_LE(Outside(in[0], {out[0]}), 1e-6);
    EXPECT_LE(Outside(in[1], {out[0], out[1]}), 1e-6);
  }
}

// Columns that are equal but for 1e-4 of their length still tell two directions.
TEST(Orthonormalize, NearlyCollinearColumnsKeepTheirSpan) {
  const std::vector<float> base = Normal(1000, 1);
  const std::vector<float> other = Normal(1000, 2);
  std::vector<float> close = base;
  for (size_t i = 0; i < close.size(); ++i) close[i] += 1e-4f * other[i];
  const Columns out = Orthonormal({base, close});
  ExpectOrthonormal(out);
  EXPECT_LE(Outside(other, out), 0.01);
}

TEST(Orthonormalize, WhatHasNoDirectionBecomesARandomOne) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const size_t n = 40;
  const std::vector<float> zero(n, 0.0f);
  const std::vector<float> base = Normal(n, 1);
  std::vector<float> with_nan = Normal(n, 2);
  with_nan[7] = kNan;
  std::vector<float> with_inf = Normal(n, 3);
  with_inf[39] = -kInf;
  for (const Columns& in : std::vector<Columns>{{zero, zero, zero},
                                                {base, base, base},
                                                {base, Scaled(base, -1e-20f), Normal(n, 4)},
                                                {with_nan, with_inf, base},
                                                {zero, base, with_nan}}) {
    const Columns out = Orthonormal(in);
    ExpectOrthonormal(out);
    EXPECT_EQ(out, Orthonormal(in)) << "equal inputs, equal bits";
    EXPECT_NE(out, Orthonormal(in, 2)) << "another key, other directions";
    if (in[0] == base) {
      EXPECT_LE(Outside(base, {out[0]}), 1e-6);
    }
  }
  // Random columns of one key differ from each other, and their elements have both signs.
  const Columns random = Orthonormal({zero, zero, zero});
  EXPECT_THAT(random[1], ::testing::Contains(::testing::Lt(-0.05f)));
  EXPECT_THAT(random[1], ::testing::Contains(::testing::Gt(0.05f)));
}

}  // namespace
}  // namespace terse
