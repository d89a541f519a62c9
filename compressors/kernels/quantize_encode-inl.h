// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of quantize: codes.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
#endif

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/quantize_range-inl.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// The random numbers of kernels.h, row after row.
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

  // RandomWord of kernels.h.
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

// Codes of rows, and what they leave in the residual. kPlain: c is computed here (Quantizer::compensated).
template <bool kResidual, bool kPlain, bool kStochastic>
class RowCoder {
 public:
  // A code stands in the raw bits that Row gives from this bit on, with other bits around it.
  static constexpr int kCodeAt = kStochastic ? kFractionBits : 0;

  HWY_INLINE RowCoder(const Quantizer& quantizer, const float* input, float* residual, size_t n)
      : input_(input),
        residual_(residual),
        ahead_(n),
        minimum_(hn::Set(kF32, quantizer.minimum)),
        unit_(hn::Set(kF32, quantizer.unit)),
        inverse_(hn::Set(kF32, quantizer.inverse)),
        random_(quantizer.key, quantizer.row) {}

  // Of rows in order; before every even row but the first, BeginPair.
  HWY_INLINE void BeginPair(uint64_t row) {
    if constexpr (kStochastic) random_.Begin(row);
  }
  template <bool kOdd>
  HWY_INLINE void Row(size_t i, VU* raw) const {
    // The same place of the next block: its range is looked for when this block is done.
    PrefetchAhead(input_, ahead_ + i);
    if constexpr (kResidual) PrefetchAhead(residual_, ahead_ + i);
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t at = i + v * kN;
      VF c;
      if constexpr (kPlain) {
        c = PlainSum<kResidual>(input_, residual_, at);
      } else {
        c = Compensated<kResidual>(input_, residual_, at);
      }
      const VF scaled = hn::Mul(hn::Sub(c, minimum_), inverse_);
      const VF point = hn::Set(kF32, kStochastic ? kFixedPoint : kRoundToInteger);
      raw[v] = hn::BitCast(kU32, hn::Add(scaled, point));
      VU whole = raw[v];
      if constexpr (kStochastic) {
        raw[v] = hn::Add(raw[v], random_.template Get<kOdd>(v));
        whole = hn::AndNot(hn::Set(kU32, kFractionMask), raw[v]);
      }
      if constexpr (kResidual) {
        const VF level = hn::Sub(hn::BitCast(kF32, whole), point);
        hn::StoreU(hn::Sub(c, hn::Add(minimum_, hn::Mul(level, unit_))), kF32, residual_ + at);
      }
    }
  }

 private:
  const float* input_;
  float* residual_;
  size_t ahead_;
  VF minimum_, unit_, inverse_;
  RandomRows random_;
};

// Codes of `bits` bits into the lanes' streams, from any bit and row on.
template <typename Coder>
void AppendRows(Coder& coder, uint32_t bits, size_t row, size_t begin, size_t end, LaneStream& stream) {
  const VU mask = hn::Set(kU32, (1u << bits) - 1);
  const int step = static_cast<int>(bits);
  int fill = static_cast<int>(stream.fill);
  VU words[kVectors];
  for (size_t v = 0; v < kVectors; ++v) words[v] = hn::LoadU(kU32, stream.word + v * kN);
  for (size_t i = begin; i < end; i += kLanes, ++row) {
    VU codes[kVectors];
    if (row % 2 != 0) {
      coder.template Row<true>(i, codes);
    } else {
      if (i != 0) coder.BeginPair(row);
      coder.template Row<false>(i, codes);
    }
    for (size_t v = 0; v < kVectors; ++v) {
      codes[v] = hn::And(hn::ShiftRight<Coder::kCodeAt>(codes[v]), mask);
      words[v] = hn::Or(words[v], hn::ShiftLeftSame(codes[v], fill));
    }
    fill += step;
    if (fill < 32) continue;
    fill -= 32;
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(words[v], kU32, reinterpret_cast<uint32_t*>(stream.out) + v * kN);
      words[v] = hn::ShiftRightSame(codes[v], step - fill);
    }
    stream.out += sizeof(stream.word);
  }
  for (size_t v = 0; v < kVectors; ++v) hn::StoreU(words[v], kU32, stream.word + v * kN);
  stream.fill = static_cast<uint32_t>(fill);
}

// The codes of two rows, from bit kBit of the words on, and of those behind them.
template <int kBits, int kBit, bool kOdd, typename Coder>
HWY_INLINE void FillWords(Coder& coder, size_t row, size_t i, VU* words) {
  if constexpr (kBit < 32) {
    VU raw[kVectors];
    if (!kOdd && i != 0) coder.BeginPair(row);
    coder.template Row<kOdd>(i, raw);
    constexpr int kLeft = kBit - Coder::kCodeAt;
    for (size_t v = 0; v < kVectors; ++v) {
      VU code;
      if constexpr (kLeft >= 0) {
        code = hn::ShiftLeft<kLeft>(raw[v]);
      } else {
        code = hn::ShiftRight<-kLeft>(raw[v]);
      }
      code = hn::And(code, hn::Set(kU32, ((1u << kBits) - 1) << kBit));
      words[v] = kBit == 0 ? code : hn::Or(words[v], code);
    }
    FillWords<kBits, kBit + kBits, !kOdd>(coder, row + 1, i + kLanes, words);
  }
}

// Whole words of 32 / kBits rows each, from the begin of a word and an even row on; returns their elements.
template <int kBits, typename Coder>
HWY_INLINE size_t EncodeWords(Coder& coder, size_t row, size_t n, LaneStream& stream) {
  constexpr size_t kRows = 32 / kBits;
  size_t i = 0;
  for (; i + kRows * kLanes <= n; i += kRows * kLanes) {
    VU words[kVectors];
    FillWords<kBits, 0, false>(coder, row + i / kLanes, i, words);
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(words[v], kU32, reinterpret_cast<uint32_t*>(stream.out) + v * kN);
    }
    stream.out += sizeof(stream.word);
  }
  return i;
}

template <bool kResidual, bool kPlain, bool kStochastic>
void EncodeRows(const Quantizer& quantizer, const float* input, float* residual, size_t n,
                LaneStream& stream) {
  RowCoder<kResidual, kPlain, kStochastic> coder(quantizer, input, residual, n);
  size_t done = 0;
  if (kPlain && stream.fill == 0 && quantizer.row % 2 == 0) {
    if (quantizer.bits == 4) done = EncodeWords<4>(coder, quantizer.row, n, stream);
    if (quantizer.bits == 8) done = EncodeWords<8>(coder, quantizer.row, n, stream);
  }
  if (done < n) AppendRows(coder, quantizer.bits, quantizer.row + done / kLanes, done, n, stream);
}

void QuantizeEncode(const Quantizer& quantizer, const float* input, float* residual, size_t n,
                    LaneStream& stream) {
  // By (residual, plain, stochastic).
  using Encode = void (*)(const Quantizer&, const float*, float*, size_t, LaneStream&);
  static constexpr Encode kEncode[2][2][2] = {
      {{EncodeRows<false, false, false>, EncodeRows<false, false, true>},
       {EncodeRows<false, true, false>, EncodeRows<false, true, true>}},
      {{EncodeRows<true, false, false>, EncodeRows<true, false, true>},
       {EncodeRows<true, true, false>, EncodeRows<true, true, true>}}};
  const size_t rows = quantizer.saturated ? 0 : WholeRows(n);
  kEncode[residual != nullptr][!quantizer.compensated][quantizer.stochastic](quantizer, input, residual, rows,
                                                                             stream);
  if (rows == n) return;
  Quantizer rest = quantizer;
  rest.row += rows / kLanes;
  float* last = residual == nullptr ? nullptr : residual + rows;
  ScalarKernels().quantize_encode(rest, input + rows, last, n - rows, stream);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
