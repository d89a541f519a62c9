// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of quantize: codes to sums.
#include <bit>
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

// The levels of a group's payloads.
template <bool kTable, size_t kPeers>
class GroupLevels {
 public:
  HWY_INLINE GroupLevels(const float* minimum, const float* unit, float weight)
      : weight_(hn::Set(kF32, weight)) {
    for (size_t p = 0; p < kPeers; ++p) {
      minimum_[p] = hn::Set(kF32, minimum[p]);
      unit_[p] = hn::Set(kF32, unit[p]);
      if constexpr (kTable) table_[p] = Value(p, hn::Iota(kF32, 0.0f));
    }
  }

  // What payload p's codes come to. With a table, all of whose values fit into a vector, they are looked up.
  HWY_INLINE VF Decode(size_t p, VU code) const {
    if constexpr (kTable) return hn::TableLookupLanes(table_[p], hn::IndicesFromVec(kF32, code));
    return Value(p, hn::ConvertTo(kF32, hn::BitCast(kI32, code)));
  }

 private:
  HWY_INLINE VF Value(size_t p, VF level) const {
    return hn::Mul(weight_, hn::MulAdd(level, unit_[p], minimum_[p]));
  }

  VF weight_;
  VF minimum_[kPeers];
  VF unit_[kPeers];
  VF table_[kPeers];
};

// Whether the terms have room for powers of two as factors of their own (ScaledRows): nothing is near the
// ends of fp32's range.
inline bool Scalable(const float* minimum, const float* unit, size_t peers, float weight) {
  const auto within = [](float x, int least, int most) {
    const int exponent = static_cast<int>(std::bit_cast<uint32_t>(x) >> 23 & 255) - 127;
    return exponent >= least && exponent <= most;
  };
  const auto middle = [&](float x) { return within(x, -60, 60); };
  bool all = within(weight, -30, 0);
  for (size_t p = 0; p < peers; ++p)
    all = all && (minimum[p] == 0.0f || middle(minimum[p])) && middle(unit[p]);
  return all;
}

inline bool PowerOfTwo(float x) { return (std::bit_cast<uint32_t>(x) & 0x807fffffu) == 0; }

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
    if constexpr (kPeers == 1) {
      if (start == Start::kAssign || start == Start::kStream) return Sum<1, false>(first, start, begin, end);
    }
    Sum<kPeers, true>(first, start, begin, end);
  }

 private:
  // kMore: the sum starts from something.
  template <size_t kPeers, bool kMore>
  void Sum(size_t first, Start start, size_t begin, size_t end) const {
    const uint32_t* words[kPeers];
    for (size_t p = 0; p < kPeers; ++p) {
      words[p] = reinterpret_cast<const uint32_t*>(streams.data[first + p]);
    }
    size_t i = begin;
    if (bits == 4) i = Words<4, kMore>(first, words, start, begin, end);
    if (bits == 8) i = Words<8, kMore>(first, words, start, begin, end);
    if (i == end) return;
    const GroupLevels<false, kPeers> levels(minimum + first, unit + first, weight);
    for (; i < end; i += kLanes) AnyRow<kMore>(levels, words, start, i);
  }

  // Whole words of rows, if the rows begin with one; returns where the rest begins.
  template <int kBits, bool kMore, size_t kPeers>
  HWY_INLINE size_t Words(size_t first, const uint32_t* const (&words)[kPeers], Start start, size_t i,
                          size_t end) const {
    constexpr size_t kRows = 32 / kBits;
    constexpr bool kTable = kN >= 16 && kBits == 4;
    const size_t at = row + i / kLanes;
    if (at % kRows != 0) return i;
    size_t word = at / kRows * kLanes;
    if constexpr (kN < 16) {
      // What a power of two weighs loses nothing: minimum and unit take it on.
      const bool weigh = !PowerOfTwo(weight);
      if (Scalable(minimum + first, unit + first, kPeers, weight)) {
        const size_t done = weigh ? PairsOfWords<kBits, kMore, true>(first, words, start, word, i, end)
                                  : PairsOfWords<kBits, kMore, false>(first, words, start, word, i, end);
        word += (done - i) / kRows;
        i = done;
      }
      if (i + kRows * kLanes > end) return i;
    }
    const GroupLevels<kTable, kPeers> levels(minimum + first, unit + first, weight);
    for (; i + kRows * kLanes <= end; i += kRows * kLanes, word += kLanes) {
      WordRows<kBits, 0, kMore>(levels, words, start, word, out + i);
    }
    return i;
  }

  // The row whose codes are from bit kBit of the words on, and those behind it.
  template <int kBits, int kBit, bool kMore, typename Levels, size_t kPeers>
  static HWY_INLINE void WordRows(const Levels& levels, const uint32_t* const (&words)[kPeers], Start start,
                                  size_t word, float* to) {
    if constexpr (kBit < 32) {
      const VU mask = hn::Set(kU32, (1u << kBits) - 1);
      for (size_t v = 0; v < kVectors; ++v) {
        VF sum = StartValue(start, to + v * kN);
        for (size_t p = 0; p < kPeers; ++p) {
          VU code = hn::ShiftRight<kBit>(hn::LoadU(kU32, words[p] + word + v * kN));
          if constexpr (kBit + kBits < 32) code = hn::And(code, mask);
          const VF value = levels.Decode(p, code);
          sum = kMore || p > 0 ? hn::Add(sum, value) : value;
        }
        StoreSum(start, sum, to + v * kN);
      }
      WordRows<kBits, kBit + kBits, kMore>(levels, words, start, word, to + kLanes);
    }
  }

  // Rows of words, two words side by side; returns where the rest begins.
  template <int kBits, bool kMore, bool kWeigh, size_t kPeers>
  HWY_INLINE size_t PairsOfWords(size_t first, const uint32_t* const (&words)[kPeers], Start start,
                                 size_t word, size_t i, size_t end) const {
    constexpr size_t kElements = 2 * (32 / kBits * kLanes);
    const float factor = kWeigh ? 1.0f : weight;
    VF low[kPeers];
    VF step[kPeers];
    for (size_t p = 0; p < kPeers; ++p) {
      low[p] = hn::Set(kF32, minimum[first + p] * factor);
      step[p] = hn::Set(kF32, unit[first + p] * factor);
    }
    for (; i + kElements <= end; i += kElements, word += 2 * kLanes) {
      ScaledRows<kBits, 0, kMore, kWeigh>(low, step, words, start, word, out + i);
    }
    return i;
  }

  // The rows whose codes are from bit kBit of two words on, and those behind them, without shifts: a code
  // stays where it is in its word, where it is a power of two times as large, and the unit is that much
  // smaller, so their product is the same.
  template <int kBits, int kBit, bool kMore, bool kWeigh, size_t kPeers>
  HWY_INLINE void ScaledRows(const VF (&low)[kPeers], const VF (&step)[kPeers],
                             const uint32_t* const (&words)[kPeers], Start start, size_t word,
                             float* to) const {
    if constexpr (kBit < 32) {
      constexpr size_t kAll = 2 * kVectors;
      constexpr bool kTop = kBit + kBits == 32;  // whose highest bit would be a sign
      constexpr auto kTo = [](size_t v) { return v / kVectors * (32 / kBits * kLanes) + v % kVectors * kN; };
      const VU mask = hn::Set(kU32, ((1u << kBits) - 1) << kBit);
      const VF scale = hn::Set(kF32, kTop ? 1.0f : 1.0f / static_cast<float>(1u << kBit));
      VF sum[kAll];
      for (size_t v = 0; v < kAll; ++v) sum[v] = StartValue(start, to + kTo(v));
      for (size_t p = 0; p < kPeers; ++p) {
        const VF scaled = hn::Mul(step[p], scale);
        VF x[kAll];
        for (size_t v = 0; v < kAll; ++v) {
          const VU loaded = hn::LoadU(kU32, words[p] + word + v * kN);
          const VU code = kTop ? hn::ShiftRight<kBit>(loaded) : hn::And(loaded, mask);
          x[v] = hn::ConvertTo(kF32, hn::BitCast(kI32, code));
        }
        StepDone<kAll>(x);
        for (size_t v = 0; v < kAll; ++v) x[v] = hn::MulAdd(x[v], scaled, low[p]);
        StepDone<kAll>(x);
        if constexpr (kWeigh) {
          for (size_t v = 0; v < kAll; ++v) x[v] = hn::Mul(x[v], hn::Set(kF32, weight));
          StepDone<kAll>(x);
        }
        for (size_t v = 0; v < kAll; ++v) sum[v] = kMore || p > 0 ? hn::Add(sum[v], x[v]) : x[v];
        StepDone<kAll>(sum);
      }
      for (size_t v = 0; v < kAll; ++v) StoreSum(start, sum[v], to + kTo(v));
      ScaledRows<kBits, kBit + kBits, kMore, kWeigh>(low, step, words, start, word, to + kLanes);
    }
  }

  // A row of codes of any width, from any bit on.
  template <bool kMore, typename Levels, size_t kPeers>
  HWY_INLINE void AnyRow(const Levels& levels, const uint32_t* const (&words)[kPeers], Start start,
                         size_t i) const {
    const VU mask = hn::Set(kU32, (1u << bits) - 1);
    const size_t bit = (row + i / kLanes) * bits;
    const int shift = static_cast<int>(bit % 32);
    for (size_t v = 0; v < kVectors; ++v) {
      VF sum = StartValue(start, out + i + v * kN);
      for (size_t p = 0; p < kPeers; ++p) {
        const uint32_t* word = words[p] + bit / 32 * kLanes + v * kN;
        VU code = hn::ShiftRightSame(hn::LoadU(kU32, word), shift);
        if (bit % 32 + bits > 32) {
          code = hn::Or(code, hn::ShiftLeftSame(hn::LoadU(kU32, word + kLanes), 32 - shift));
        }
        const VF value = levels.Decode(p, hn::And(code, mask));
        sum = kMore || p > 0 ? hn::Add(sum, value) : value;
      }
      StoreSum(start, sum, out + i + v * kN);
    }
  }
};

void QuantizeDecode(uint32_t bits, const Peers& streams, const float* minimum, const float* unit,
                    float weight, size_t row, Start start, float* out, size_t n) {
  if (IsStaged(start, out, n)) {
    return DecodeStaged(start, out, n, [&](Start here, size_t begin, size_t count, float* to) HWY_ATTR {
      QuantizeDecode(bits, streams, minimum, unit, weight, row + begin / kLanes, here, to, count);
    });
  }
  const size_t rows = WholeRows(n);
  start = StartAt(start, out);
  DecodeByGroups(streams.count, start, rows, DecodeCodeRows{bits, streams, minimum, unit, weight, row, out});
  if (rows == n) return;
  ScalarKernels().quantize_decode(bits, streams, minimum, unit, weight, row + rows / kLanes, start,
                                  out + rows, n - rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_QUANTIZE_DECODE_INL_H_
