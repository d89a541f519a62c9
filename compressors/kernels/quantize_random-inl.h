// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of quantize: the random numbers of stochastic rounding.
#include <cstddef>
#include <cstdint>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANDOM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANDOM_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANDOM_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANDOM_INL_H_
#endif

#include "compressors/kernels/random.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// The random numbers of random.h, row after row. A copy that only one function sees stays in registers.
class RandomRows {
 public:
  HWY_INLINE RandomRows(const uint32_t key[2], uint64_t row) : key_{key[0], key[1]} {
    Seed(row);
    for (uint64_t pair = row % kRandomRows / 2; pair > 0; --pair) Step();
  }

  // From the row before to the even `row`.
  HWY_INLINE void Begin(uint64_t row) { row % kRandomRows == 0 ? Seed(row) : Step(); }

  template <bool kOdd>
  HWY_INLINE VU Get(size_t v) const {
    if constexpr (kOdd) return hn::ShiftRight<32 - kFractionBits>(words_[v]);
    return hn::And(words_[v], hn::Set(kU32, kFractionMask));
  }

 private:
  HWY_INLINE void Step() {
    for (VU& word : words_) {
      word = hn::Add(hn::Mul(word, hn::Set(kU32, kRandomFactor)), hn::Set(kU32, kRandomSummand));
    }
  }

  // RandomWord of random.h.
  HWY_INLINE void Seed(uint64_t row) {
    const uint32_t first = static_cast<uint32_t>(row / kRandomRows * kLanes);
    for (size_t v = 0; v < kVectors; ++v) {
      const uint32_t counter = first + static_cast<uint32_t>(v * kN);
      VU x = hn::Mul(hn::Iota(kU32, 0), hn::Set(kU32, kCounterStep));
      x = hn::Add(x, hn::Set(kU32, counter * kCounterStep + key_[0]));
      x = hn::Xor(x, hn::ShiftRight<16>(x));
      x = hn::Mul(x, hn::Set(kU32, 0x7feb352du));
      x = hn::Xor(x, hn::Set(kU32, key_[1]));
      x = hn::Xor(x, hn::ShiftRight<15>(x));
      x = hn::Mul(x, hn::Set(kU32, 0x846ca68bu));
      words_[v] = hn::Xor(x, hn::ShiftRight<16>(x));
    }
  }

  uint32_t key_[2];
  VU words_[kVectors];
};

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_QUANTIZE_RANDOM_INL_H_
