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
#include <bit>
#include <cstdint>
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

// A block's least and greatest c by the order of their bits, gathered in several vectors side by side so
// that none waits for the one before. As signed numbers the bits are in the order of the floats above
// zero, as unsigned ones in that of the floats below zero, away from it; and what is not finite is beyond
// the infinities either way. Integer units have room for that beside the sum, floating-point ones have not.
template <bool kResidual>
struct BitsOfRows {
  static constexpr size_t kSums = 4;
  static constexpr uint32_t kSign = 0x80000000u;
  static constexpr uint32_t kInfinity = 0x7f800000u;

  const float* input;
  const float* residual;
  size_t n;  // not 0

  HWY_INLINE void Find(Range* most) const {
    VI above[kSums];
    VU below[kSums];
    for (size_t s = 0; s < kSums; ++s) {
      above[s] = hn::Set(kI32, std::numeric_limits<int32_t>::min());
      below[s] = hn::Zero(kU32);
    }
    ForVectors([&](size_t s, VF c) HWY_ATTR {
      above[s] = hn::Max(above[s], hn::BitCast(kI32, c));
      below[s] = hn::Max(below[s], hn::BitCast(kU32, c));
    });
    for (size_t s = 1; s < kSums; ++s) {
      above[0] = hn::Max(above[0], above[s]);
      below[0] = hn::Max(below[0], below[s]);
    }
    const uint32_t high = static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(kI32, above[0])));
    const uint32_t low = hn::GetLane(hn::MaxOfLanes(kU32, below[0]));
    const bool some_above = high < kSign;
    const bool some_below = low >= kSign;
    most->low = std::bit_cast<float>(some_below ? low : Least());
    most->high = std::bit_cast<float>(some_above ? high : Least());
    most->nonfinite = false;
    most->plain = (!some_above || high < kInfinity) && (!some_below || low < (kSign | kInfinity));
  }

 private:
  // Of bits with one sign those of the c next to zero.
  HWY_INLINE uint32_t Least() const {
    VU least[kSums];
    for (VU& bits : least) bits = hn::Set(kU32, ~0u);
    ForVectors([&](size_t s, VF c) HWY_ATTR { least[s] = hn::Min(least[s], hn::BitCast(kU32, c)); });
    for (size_t s = 1; s < kSums; ++s) least[0] = hn::Min(least[0], least[s]);
    return hn::GetLane(hn::MinOfLanes(kU32, least[0]));
  }

  template <typename Take>
  HWY_INLINE void ForVectors(const Take& take) const {
    size_t i = 0;
    for (; i + kSums * kN <= n; i += kSums * kN) {
      for (size_t s = 0; s < kSums; ++s) take(s, PlainSum<kResidual>(input, residual, i + s * kN));
    }
    for (; i < n; i += kN) take(0, PlainSum<kResidual>(input, residual, i));
  }
};

void FindRange(const float* input, const float* residual, size_t n, Range* most) {
  const size_t rows = WholeRows(n);
  most->plain = false;
  if (rows > 0) {
    residual == nullptr ? BitsOfRows<false>{input, residual, rows}.Find(most)
                        : BitsOfRows<true>{input, residual, rows}.Find(most);
  }
  // A range that is not plain is no range: something was not finite, or could not be told from it.
  if (!most->plain) return ScalarKernels().range(input, residual, n, most);
  if (rows == n) return;
  const Range before = *most;
  ScalarKernels().range(input + rows, residual == nullptr ? nullptr : residual + rows, n - rows, most);
  most->low = std::min(before.low, most->low);
  most->high = std::max(before.high, most->high);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANGE_INL_H_
