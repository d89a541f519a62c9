// SPDX-License-Identifier: Apache-2.0
//
// How the SIMD kernel of powersgd that makes the left factor makes c, and what was sent before goes off the
// residual on the way.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_LOW_RANK_COMPENSATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_LOW_RANK_COMPENSATE_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_LOW_RANK_COMPENSATE_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_LOW_RANK_COMPENSATE_INL_H_
#endif

#include <algorithm>

#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Elements that a first pass asks for ahead of time: at most those of the next rows.
constexpr size_t kAhead = 512;

// What a first pass over kRows rows takes off the residual on the way: nothing, or the part of a product
// whose left elements are p.
struct NothingOff {
  HWY_INLINE void Take(size_t, VF*) const {}
};
template <size_t kRows, size_t kRank>
struct ProductOff {
  VF p[kRows][kRank];
  const float* right;
  size_t stride;

  HWY_INLINE ProductOff(const float* left, size_t left_stride, const float* right_factor, size_t right_stride)
      : right(right_factor), stride(right_stride) {
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t k = 0; k < kRank; ++k) p[r][k] = hn::Set(kF32, left[k * left_stride + r]);
    }
  }
  // Of columns from j on.
  HWY_INLINE void Take(size_t j, VF* held) const {
    VF sum[kRows];
    for (size_t k = 0; k < kRank; ++k) {
      const VF q = hn::LoadU(kF32, right + k * stride + j);
      for (size_t r = 0; r < kRows; ++r) {
        const VF product = hn::Mul(p[r][k], q);
        sum[r] = k == 0 ? product : hn::Add(sum[r], product);
      }
    }
    for (size_t r = 0; r < kRows; ++r) held[r] = hn::Sub(held[r], sum[r]);
  }
};

// Leaves c of 16 columns of kRows rows in the residual, whose columns from j of `off` on they are; for what
// is not finite. Returns nonfinite.
template <size_t kRows, typename Off>
HWY_NOINLINE bool CompensateCarefully(const float* input, float* residual, size_t stride, const Off& off,
                                      size_t j) {
  MF finite = AllLanes();
  for (size_t v = 0; v < kVectors; ++v) {
    VF c[kRows];
    for (size_t r = 0; r < kRows; ++r) c[r] = hn::LoadU(kF32, residual + r * stride + v * kN);
    off.Take(j + v * kN, c);
    for (size_t r = 0; r < kRows; ++r) {
      const VF x = Compensate<false>(input, nullptr, r * stride + v * kN, finite);
      hn::StoreU(ClampFinite(hn::Add(x, c[r])), kF32, residual + r * stride + v * kN);
    }
  }
  return !hn::AllTrue(kF32, finite);
}

// The same of anything. Where the sum of what would be c is finite, so is all of it and what it is made of.
template <size_t kRows, typename Off>
HWY_INLINE bool CompensateRows(const float* input, float* residual, size_t stride, const Off& off, size_t j) {
  const size_t ahead = std::min(kRows * stride, kAhead);
  VF c[kVectors][kRows];
  VF sum[kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    PrefetchAhead(input + r * stride, ahead);
    PrefetchAhead(residual + r * stride, ahead);
  }
  for (size_t v = 0; v < kVectors; ++v) {
    for (size_t r = 0; r < kRows; ++r) c[v][r] = hn::LoadU(kF32, residual + r * stride + v * kN);
    off.Take(j + v * kN, c[v]);
    for (size_t r = 0; r < kRows; ++r) {
      c[v][r] = hn::Add(c[v][r], hn::LoadU(kF32, input + r * stride + v * kN));
      sum[v] = r == 0 ? c[v][r] : hn::Add(sum[v], c[v][r]);
    }
    if (v > 0) sum[0] = hn::Add(sum[0], sum[v]);
  }
  const VF zero = hn::Sub(sum[0], sum[0]);  // or NaN
  if (HWY_UNLIKELY(!hn::AllTrue(kF32, hn::Eq(zero, zero)))) {
    return CompensateCarefully<kRows>(input, residual, stride, off, j);
  }
  for (size_t v = 0; v < kVectors; ++v) {
    for (size_t r = 0; r < kRows; ++r) hn::StoreU(c[v][r], kF32, residual + r * stride + v * kN);
  }
  return false;
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_LOW_RANK_COMPENSATE_INL_H_
