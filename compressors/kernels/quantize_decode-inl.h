// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of quantize: codes to sums.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_QUANTIZE_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_QUANTIZE_DECODE_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_QUANTIZE_DECODE_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_QUANTIZE_DECODE_INL_H_
#endif

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

template <bool kTable>
struct DecodeCodeRows {
  uint32_t bits;
  const Peers& streams;
  const float* minimum;
  const float* unit;
  float weight;
  size_t row;
  float* out;

  template <size_t kPeers>
  HWY_INLINE void Run(size_t first, Start start, size_t begin, size_t end) const {
    VF minimums[kPeers];
    VF units[kPeers];
    for (size_t p = 0; p < kPeers; ++p) {
      minimums[p] = hn::Set(kF32, minimum[first + p]);
      units[p] = hn::Set(kF32, unit[first + p]);
    }
    const VF by = hn::Set(kF32, weight);
    const VU mask = hn::Set(kU32, (1u << bits) - 1);
    // Where all values of a code fit into a vector, they are looked up.
    VF values[kPeers];
    for (size_t p = 0; kTable && p < kPeers; ++p) {
      values[p] = hn::Mul(by, hn::Add(minimums[p], hn::Mul(hn::Iota(kF32, 0.0f), units[p])));
    }
    for (size_t i = begin; i < end; i += kLanes) {
      const size_t bit = (row + i / kLanes) * bits;
      const int shift = static_cast<int>(bit % 32);
      const bool straddles = bit % 32 + bits > 32;
      for (size_t v = 0; v < kVectors; ++v) {
        VF sum = StartValue(start, out + i + v * kN);
        for (size_t p = 0; p < kPeers; ++p) {
          const uint32_t* words =
              reinterpret_cast<const uint32_t*>(streams.data[first + p]) + bit / 32 * kLanes + v * kN;
          VU code = hn::ShiftRightSame(hn::LoadU(kU32, words), shift);
          if (straddles) code = hn::Or(code, hn::ShiftLeftSame(hn::LoadU(kU32, words + kLanes), 32 - shift));
          code = hn::And(code, mask);
          if constexpr (kTable) {
            sum = AddTerm(start, sum, hn::TableLookupLanes(values[p], hn::IndicesFromVec(kF32, code)));
          } else {
            const VF level = hn::ConvertTo(kF32, hn::BitCast(kI32, code));
            const VF decoded = hn::Add(minimums[p], hn::Mul(level, units[p]));
            sum = AddTerm(start, sum, hn::Mul(by, decoded));
          }
        }
        StoreSum(start, sum, out + i + v * kN);
      }
    }
  }
};

void QuantizeDecode(uint32_t bits, const Peers& streams, const float* minimum, const float* unit,
                    float weight, size_t row, Start start, float* out, size_t n) {
  const size_t rows = WholeRows(n);
  start = StartAt(start, out);
  if ((size_t{1} << bits) <= kN) {
    DecodeByGroups(streams.count, start, rows,
                   DecodeCodeRows<true>{bits, streams, minimum, unit, weight, row, out});
  } else {
    DecodeByGroups(streams.count, start, rows,
                   DecodeCodeRows<false>{bits, streams, minimum, unit, weight, row, out});
  }
  if (rows == n) return;
  ScalarKernels().quantize_decode(bits, streams, minimum, unit, weight, row + rows / kLanes, start,
                                  out + rows, n - rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_QUANTIZE_DECODE_INL_H_
