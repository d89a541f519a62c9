// SPDX-License-Identifier: Apache-2.0
//
// Plain vector operations for the engine and the methods, by the active kernels.
#ifndef TERSE_COMPRESSORS_KERNELS_VECTOR_H_
#define TERSE_COMPRESSORS_KERNELS_VECTOR_H_

#include <algorithm>
#include <cassert>
#include <cmath>

#include "absl/types/span.h"
#include "compressors/kernels/dispatch.h"

namespace terse::kernels {

// values *= factor
inline void ScaleInPlace(float factor, absl::Span<float> values) {
  ActiveKernels().scale(factor, values.data(), values.size());
}

// Part of a vector of `whole` elements <- 0, around the caches where the vector is too large for them.
inline void Clear(absl::Span<float> part, size_t whole) {
  if (!BeyondCaches(whole * sizeof(float))) {
    std::fill(part.begin(), part.end(), 0.0f);
    return;
  }
  ActiveKernels().stream_zeros(part.data(), part.size());
  EndStream();
}

// values += factor * from (a product, then a sum). Equal sizes; no overlap but from == values.
inline void AddScaled(absl::Span<const float> from, float factor, absl::Span<float> values) {
  assert(from.size() == values.size());
  ActiveKernels().add_scaled(from.data(), factor, values.data(), values.size());
}

// True when no element is NaN or Inf.
inline bool AllFinite(absl::Span<const float> values) {
  return ActiveKernels().all_finite(values.data(), values.size());
}

// The L2 norm of the elements that are finite, in fp64 and in the fixed order of onebit_sum.
inline double FiniteNorm(absl::Span<const float> values) {
  constexpr auto kSquares = wire::ScaleNorm::kL2;
  return std::sqrt(ActiveKernels().onebit_sum(kSquares, values.data(), nullptr, values.size()).value);
}

// residual += input, by the rule of error feedback: an input that is NaN or Inf counts as 0, the sum is
// clamped to the finite range. Returns true when an input was NaN or Inf.
inline bool AddFinite(absl::Span<const float> input, absl::Span<float> residual) {
  assert(input.size() == residual.size());
  return ActiveKernels().compensate(input.data(), residual.data(), input.size());
}

}  // namespace terse::kernels

#endif  // TERSE_COMPRESSORS_KERNELS_VECTOR_H_
