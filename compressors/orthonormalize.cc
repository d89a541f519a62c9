// SPDX-License-Identifier: Apache-2.0
#include "compressors/orthonormalize.h"

#include <array>
#include <cmath>

#include "compressors/kernels/random.h"
#include "compressors/random_key.h"

namespace terse {
namespace {

// Below this part of a column's length, what Gram-Schmidt leaves of it is the rounding of its fp32 elements.
constexpr double kLeastRest = 0x1p-20;

// Lanes let the loop vectorise without changing what it computes.
template <typename T>
double Dot(size_t n, const T* a, const double* b) {
  constexpr size_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(a[i + l]) * b[i + l];
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  for (; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double Norm(size_t n, const double* v) { return std::sqrt(Dot(n, v, v)); }

// Makes v, in `scratch`, the k-th column if enough of it is left beside those before it.
bool Accept(size_t n, size_t k, float* columns, double* scratch) {
  const double before = Norm(n, scratch);
  for (int pass = 0; pass < 2; ++pass) {
    for (size_t j = 0; j < k; ++j) {
      const float* other = columns + j * n;
      const double part = Dot(n, other, scratch);
      for (size_t i = 0; i < n; ++i) scratch[i] -= part * static_cast<double>(other[i]);
    }
  }
  const double left = Norm(n, scratch);
  // So written that NaN and Inf fail too.
  if (!(left > kLeastRest * before)) return false;
  for (size_t i = 0; i < n; ++i) columns[k * n + i] = static_cast<float>(scratch[i] / left);
  return true;
}

}  // namespace

void Orthonormalize(size_t n, size_t count, uint64_t key, float* columns, double* scratch) {
  for (size_t k = 0; k < count; ++k) {
    for (size_t i = 0; i < n; ++i) scratch[i] = static_cast<double>(columns[k * n + i]);
    // A random column is refused once in a million times; then there is another.
    for (uint64_t attempt = 0; !Accept(n, k, columns, scratch); ++attempt) {
      const uint64_t stream = Mix(Mix(key, k), attempt);
      const uint32_t words[2] = {static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
      for (size_t i = 0; i < n; ++i) {
        const uint32_t word = kernels::RandomWord(words, static_cast<uint32_t>(i));
        scratch[i] = static_cast<double>(static_cast<int32_t>(word)) + 0.5;
      }
    }
  }
}

}  // namespace terse
