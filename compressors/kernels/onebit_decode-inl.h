// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of onebit: signs to sums.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_ONEBIT_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_ONEBIT_DECODE_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_ONEBIT_DECODE_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_ONEBIT_DECODE_INL_H_
#endif

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"
#include "proto/wire/bytes.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// The signs of a row, of which Choose takes those of vector v.
#if HWY_TARGET == HWY_AVX2

// A bit is shifted into each lane's sign, which is quicker than to make masks of bits.
struct RowSigns {
  VU bits;
  explicit HWY_INLINE RowSigns(const std::byte* row)
      : bits(hn::BitCast(kU32, hn::Set(hn::Repartition<uint16_t, F32>(), wire::Load<uint16_t>(row)))) {}
  HWY_INLINE VF Choose(size_t v, VF minus, VF plus) const {
    const VU left = hn::Sub(hn::Set(kU32, static_cast<uint32_t>(31 - v * kN)), hn::Iota(kU32, 0));
    return hn::IfNegativeThenElse(hn::BitCast(kF32, hn::Shl(bits, left)), minus, plus);
  }
};

#else

struct RowSigns {
  const std::byte* row;
  explicit HWY_INLINE RowSigns(const std::byte* of) : row(of) {}
  HWY_INLINE VF Choose(size_t v, VF minus, VF plus) const {
    return hn::IfThenElse(RowMask(row, v), minus, plus);
  }
};

#endif

struct DecodeSignRows {
  const Peers& bits;
  const float* scales;
  float* out;

  template <size_t kPeers, Start kStart>
  HWY_INLINE void RunFrom(size_t first, size_t begin, size_t end) const {
    const std::byte* data[kPeers];
    VF plus[kPeers];
    VF minus[kPeers];
    for (size_t p = 0; p < kPeers; ++p) {
      data[p] = bits.data[first + p];
      plus[p] = hn::Set(kF32, scales[first + p]);
      minus[p] = hn::Neg(plus[p]);
    }
    if constexpr (kStart == Start::kZero || kStart == Start::kStreamZero) {
      // What the sum starts from is added once and not for each element.
      plus[0] = hn::Add(hn::Zero(kF32), plus[0]);
      minus[0] = hn::Add(hn::Zero(kF32), minus[0]);
    }
    for (size_t i = begin; i < end; i += kLanes) {
      VF sums[kVectors];
      for (size_t p = 0; p < kPeers; ++p) {
        const RowSigns signs(data[p] + i / 8);
        for (size_t v = 0; v < kVectors; ++v) {
          const VF term = signs.Choose(v, minus[p], plus[p]);
          if (p > 0) {
            sums[v] = hn::Add(sums[v], term);
          } else if (kStart == Start::kAdd) {
            sums[v] = hn::Add(hn::LoadU(kF32, out + i + v * kN), term);
          } else {
            sums[v] = term;
          }
        }
      }
      for (size_t v = 0; v < kVectors; ++v) StoreSum(kStart, sums[v], out + i + v * kN);
    }
  }

  template <size_t kPeers>
  HWY_INLINE void Run(size_t first, Start start, size_t begin, size_t end) const {
    switch (start) {
      case Start::kAdd:
        return RunFrom<kPeers, Start::kAdd>(first, begin, end);
      case Start::kZero:
        return RunFrom<kPeers, Start::kZero>(first, begin, end);
      case Start::kStreamZero:
        return RunFrom<kPeers, Start::kStreamZero>(first, begin, end);
      case Start::kStream:
        return RunFrom<1, Start::kStream>(first, begin, end);
      case Start::kAssign:
        return RunFrom<1, Start::kAssign>(first, begin, end);
    }
  }
};

void OneBitDecode(const Peers& bits, const float* scales, Start start, float* out, size_t n) {
  if (IsStaged(start, out, n)) {
    return DecodeStaged(start, out, n, [&](Start here, size_t begin, size_t count, float* to) HWY_ATTR {
      OneBitDecode(Behind(bits, begin / 8), scales, here, to, count);
    });
  }
  const size_t rows = WholeRows(n);
  DecodeByGroups(bits.count, StartAt(start, out), rows, DecodeSignRows{bits, scales, out});
  ScalarKernels().onebit_decode(Behind(bits, rows / 8), scales, start, out + rows, n - rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_ONEBIT_DECODE_INL_H_
