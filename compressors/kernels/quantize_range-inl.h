// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of quantize: ranges.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANGE_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANGE_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANGE_INL_H_
#endif

#include <algorithm>
#include <limits>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// input + residual of the elements at `i`, where that is all there is to c.
template <bool kResidual>
HWY_INLINE VF PlainSum(const float* input, const float* residual, size_t i) {
  const VF x = hn::LoadU(kF32, input + i);
  if constexpr (kResidual) return hn::Add(x, hn::LoadU(kF32, residual + i));
  return x;
}

// Least and greatest c, gathered in several vectors side by side so that none waits for the one before.
template <bool kResidual>
struct RangeOfRows {
  static constexpr size_t kSums = 4;
  VF low[kSums];
  VF high[kSums];
  VF sum[kSums];  // not finite once a c is not

  HWY_INLINE void Add(size_t s, const float* input, const float* residual, size_t i) {
    const VF c = PlainSum<kResidual>(input, residual, i);
    low[s] = hn::Min(low[s], c);
    high[s] = hn::Max(high[s], c);
    sum[s] = hn::Add(sum[s], c);
  }

  // A range that is not plain is no range: something was not finite, or could not be told from it.
  HWY_INLINE Range Find(const float* input, const float* residual, size_t n) {
    for (size_t s = 0; s < kSums; ++s) {
      low[s] = hn::Set(kF32, std::numeric_limits<float>::infinity());
      high[s] = hn::Neg(low[s]);
      sum[s] = hn::Zero(kF32);
    }
    size_t i = 0;
    for (; i + kSums * kN <= n; i += kSums * kN) {
      for (size_t s = 0; s < kSums; ++s) Add(s, input, residual, i + s * kN);
    }
    for (; i < n; i += kN) Add(0, input, residual, i);
    for (size_t s = 1; s < kSums; ++s) {
      low[0] = hn::Min(low[0], low[s]);
      high[0] = hn::Max(high[0], high[s]);
      sum[0] = hn::Add(sum[0], sum[s]);
    }
    const bool plain = hn::AllTrue(kF32, Finite(sum[0]));
    return {hn::GetLane(hn::MinOfLanes(kF32, low[0])), hn::GetLane(hn::MaxOfLanes(kF32, high[0])), false,
            plain};
  }
};

Range FindRange(const float* input, const float* residual, size_t n) {
  const size_t rows = WholeRows(n);
  const Range most = residual == nullptr ? RangeOfRows<false>().Find(input, residual, rows)
                                         : RangeOfRows<true>().Find(input, residual, rows);
  if (!most.plain) return ScalarKernels().range(input, residual, n);
  if (rows == n) return most;
  const float* last = residual == nullptr ? nullptr : residual + rows;
  const Range rest = ScalarKernels().range(input + rows, last, n - rows);
  return {std::min(most.low, rest.low), std::max(most.high, rest.high), rest.nonfinite, rest.plain};
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANGE_INL_H_
