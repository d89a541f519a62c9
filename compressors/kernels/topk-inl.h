// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernel of topk.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
#endif

#include <algorithm>
#include <bit>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

template <bool kCompensated, bool kResidual>
Kernels::Collected CollectRows(const float* input, float* residual, size_t n, uint32_t first, float threshold,
                               uint32_t* indices, float* values, size_t capacity) {
  Kernels::Collected collected;
  MF finite = AllLanes();
  const VF least = hn::Set(kF32, threshold);
  for (size_t i = 0; i < n; i += kLanes) {
    VF c[kVectors];
    MF passes[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t at = i + v * kN;
      if constexpr (kCompensated) {
        c[v] = Compensated<kResidual>(input, residual, at);
      } else {
        c[v] = Compensate<kResidual>(input, residual, at, finite);
        if constexpr (kResidual) hn::StoreU(c[v], kF32, residual + at);
      }
      passes[v] = hn::Ge(hn::Abs(c[v]), least);
    }
    uint32_t hits = RowBits(passes);
    if (hits == 0) continue;
    // Few pass, so a loop over the bits beats a compress on most targets.
    float row[kLanes];
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(c[v], kF32, row + v * kN);
    for (; hits != 0; hits &= hits - 1) {
      const uint32_t lane = static_cast<uint32_t>(std::countr_zero(hits));
      if (collected.count < capacity) {
        indices[collected.count] = first + static_cast<uint32_t>(i) + lane;
        values[collected.count] = row[lane];
      }
      ++collected.count;
    }
  }
  collected.nonfinite = !hn::AllTrue(kF32, finite);
  return collected;
}

Kernels::Collected Collect(bool compensated, const float* input, float* residual, size_t n, uint32_t first,
                           float threshold, uint32_t* indices, float* values, size_t capacity) {
  const size_t rows = WholeRows(n);
  Kernels::Collected found;
  if (compensated) {
    found = residual == nullptr
                ? CollectRows<true, false>(input, residual, rows, first, threshold, indices, values, capacity)
                : CollectRows<true, true>(input, residual, rows, first, threshold, indices, values, capacity);
  } else {
    found =
        residual == nullptr
            ? CollectRows<false, false>(input, residual, rows, first, threshold, indices, values, capacity)
            : CollectRows<false, true>(input, residual, rows, first, threshold, indices, values, capacity);
  }
  if (rows == n) return found;
  const size_t stored = std::min(found.count, capacity);
  float* last = residual == nullptr ? nullptr : residual + rows;
  const Kernels::Collected rest =
      ScalarKernels().collect(compensated, input + rows, last, n - rows, first + static_cast<uint32_t>(rows),
                              threshold, indices + stored, values + stored, capacity - stored);
  return {found.count + rest.count, found.nonfinite || rest.nonfinite};
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_TOPK_INL_H_
