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

#include <algorithm>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/quantize_random-inl.h"
#include "compressors/kernels/quantize_range-inl.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// Codes of rows, and what they leave in the residual. kPlain: c is computed here (Quantizer::compensated).
template <Keep kKeep, bool kPlain, bool kRandom>
class RowCoder {
  static constexpr bool kResidual = kKeep != Keep::kNot;

 public:
  static constexpr bool kStochastic = kRandom;
  // A code stands in the raw bits that Rows gives from this bit on, with other bits around it.
  static constexpr int kCodeAt = kStochastic ? kFractionBits : 0;

  HWY_INLINE RowCoder(const Quantizer& quantizer, const float* input, const float* before, float* residual,
                      size_t n)
      : input_(input),
        before_(before),
        residual_(residual),
        ahead_(std::max(n, kRangeAhead)),
        minimum_(hn::Set(kF32, quantizer.minimum)),
        unit_(hn::Set(kF32, quantizer.unit)),
        inverse_(hn::Set(kF32, quantizer.inverse)) {}

  // kCount rows, of which the first is odd or even.
  template <bool kOdd, size_t kCount>
  HWY_INLINE void Rows(size_t i, const RandomRows& random, VU* raw) const {
    constexpr size_t kAll = kCount * kVectors;
    const VF point = hn::Set(kF32, kStochastic ? kFixedPoint : kRoundToInteger);
    // Of the blocks whose ranges are looked for next.
    for (size_t r = 0; r < kCount; ++r) {
      PrefetchAhead(input_, ahead_ + i + r * kLanes);
      if constexpr (kResidual) PrefetchAhead(before_, ahead_ + i + r * kLanes);
    }
    VF c[kAll];
    for (size_t v = 0; v < kAll; ++v) {
      c[v] = kPlain ? PlainSum<kResidual>(input_, before_, i + v * kN)
                    : Compensated<kResidual>(input_, residual_, i + v * kN);
    }
    StepDone<kAll>(c);
    VF x[kAll];
    for (size_t v = 0; v < kAll; ++v) x[v] = hn::Sub(c[v], minimum_);
    StepDone<kAll>(x);
    for (size_t v = 0; v < kAll; ++v) x[v] = hn::Mul(x[v], inverse_);
    StepDone<kAll>(x);
    for (size_t v = 0; v < kAll; ++v) x[v] = hn::Add(x[v], point);
    StepDone<kAll>(x);
    for (size_t v = 0; v < kAll; ++v) raw[v] = hn::BitCast(kU32, x[v]);
    if constexpr (kStochastic) {
      for (size_t v = 0; v < kVectors; ++v) raw[v] = hn::Add(raw[v], random.Get<kOdd>(v));
      for (size_t v = kVectors; v < kAll; ++v) raw[v] = hn::Add(raw[v], random.Get<!kOdd>(v - kVectors));
    }
    if constexpr (kResidual) {
      for (size_t v = 0; v < kAll; ++v) x[v] = hn::BitCast(kF32, Whole(raw[v]));
      StepDone<kAll>(x);
      for (size_t v = 0; v < kAll; ++v) x[v] = hn::Sub(x[v], point);
      StepDone<kAll>(x);
      for (size_t v = 0; v < kAll; ++v) x[v] = hn::MulAdd(x[v], unit_, minimum_);
      StepDone<kAll>(x);
      for (size_t v = 0; v < kAll; ++v) StoreResidual<kKeep>(hn::Sub(c[v], x[v]), residual_ + i + v * kN);
    }
  }

 private:
  // Without what stands behind the point.
  static HWY_INLINE VU Whole(VU raw) {
    return kStochastic ? hn::AndNot(hn::Set(kU32, kFractionMask), raw) : raw;
  }

  const float* input_;
  const float* before_;
  float* residual_;
  size_t ahead_;
  VF minimum_, unit_, inverse_;
};

// Codes of rows from `begin` on into the lanes' streams, from any bit and row on.
template <typename Coder>
void AppendRows(const Coder& coder, const Quantizer& quantizer, size_t begin, size_t end,
                LaneStream& stream) {
  const VU mask = hn::Set(kU32, (1u << quantizer.bits) - 1);
  const int step = static_cast<int>(quantizer.bits);
  int fill = static_cast<int>(stream.fill);
  size_t row = quantizer.row + begin / kLanes;
  RandomRows random(quantizer.key, row);
  VU words[kVectors];
  for (size_t v = 0; v < kVectors; ++v) words[v] = hn::LoadU(kU32, stream.word + v * kN);
  for (size_t i = begin; i < end; i += kLanes, ++row) {
    VU codes[kVectors];
    if (row % 2 != 0) {
      coder.template Rows<true, 1>(i, random, codes);
    } else {
      if (Coder::kStochastic && i != begin) random.Begin(row);
      coder.template Rows<false, 1>(i, random, codes);
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

// A row's codes into the words from bit kBit on.
template <int kBits, int kBit, int kCodeAt>
HWY_INLINE void FillCodes(const VU* raw, VU* words) {
  constexpr int kLeft = kBit - kCodeAt;
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
}

// The codes of two rows, from bit kBit of the words on, and of those behind them.
template <int kBits, int kBit, typename Coder>
HWY_INLINE void FillWords(const Coder& coder, size_t row, size_t i, RandomRows& random, VU* words) {
  if constexpr (kBit < 32) {
    if (Coder::kStochastic && i != 0) random.Begin(row);
    VU raw[2 * kVectors];
    coder.template Rows<false, 2>(i, random, raw);
    FillCodes<kBits, kBit, Coder::kCodeAt>(raw, words);
    FillCodes<kBits, kBit + kBits, Coder::kCodeAt>(raw + kVectors, words);
    FillWords<kBits, kBit + 2 * kBits>(coder, row + 2, i + 2 * kLanes, random, words);
  }
}

// Whole words of 32 / kBits rows each, from the begin of a word and an even row on; returns their elements.
template <int kBits, typename Coder>
HWY_INLINE size_t EncodeWords(const Coder& coder, const Quantizer& quantizer, size_t n, LaneStream& stream) {
  constexpr size_t kElements = 32 / kBits * kLanes;
  RandomRows random(quantizer.key, quantizer.row);
  size_t i = 0;
  for (; i + kElements <= n; i += kElements) {
    VU words[kVectors];
    FillWords<kBits, 0>(coder, quantizer.row + i / kLanes, i, random, words);
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(words[v], kU32, reinterpret_cast<uint32_t*>(stream.out) + v * kN);
    }
    stream.out += sizeof(stream.word);
  }
  return i;
}

template <Keep kKeep, bool kPlain, bool kStochastic>
void EncodeRows(const Quantizer& quantizer, const float* input, const float* before, float* residual,
                size_t n, LaneStream& stream) {
  const RowCoder<kKeep, kPlain, kStochastic> coder(quantizer, input, before, residual, n);
  size_t done = 0;
  if (kPlain && stream.fill == 0 && quantizer.row % 2 == 0) {
    if (quantizer.bits == 4) done = EncodeWords<4>(coder, quantizer, n, stream);
    if (quantizer.bits == 8) done = EncodeWords<8>(coder, quantizer, n, stream);
  }
  if (done < n) AppendRows(coder, quantizer, done, n, stream);
}

void QuantizeEncode(const Quantizer& quantizer, const float* input, const float* before, float* residual,
                    size_t n, LaneStream& stream) {
  // By (where to, plain, stochastic). What is not plain is in the residual, and replaced there.
  using Encode = void (*)(const Quantizer&, const float*, const float*, float*, size_t, LaneStream&);
  constexpr auto kIn = Keep::kInResidual;
  static constexpr Encode kEncode[3][2][2] = {
      {{EncodeRows<Keep::kNot, false, false>, EncodeRows<Keep::kNot, false, true>},
       {EncodeRows<Keep::kNot, true, false>, EncodeRows<Keep::kNot, true, true>}},
      {{EncodeRows<kIn, false, false>, EncodeRows<kIn, false, true>},
       {EncodeRows<kIn, true, false>, EncodeRows<kIn, true, true>}},
      {{EncodeRows<kIn, false, false>, EncodeRows<kIn, false, true>},
       {EncodeRows<Keep::kAroundCaches, true, false>, EncodeRows<Keep::kAroundCaches, true, true>}}};
  Keep keep = residual == nullptr ? Keep::kNot : kIn;
  if (GoesAround(before, residual)) keep = Keep::kAroundCaches;
  const size_t rows = quantizer.saturated ? 0 : WholeRows(n);
  kEncode[static_cast<size_t>(keep)][!quantizer.compensated][quantizer.stochastic](quantizer, input, before,
                                                                                   residual, rows, stream);
  if (rows == n) return;
  Quantizer rest = quantizer;
  rest.row += rows / kLanes;
  const bool keeps = residual != nullptr;
  ScalarKernels().quantize_encode(rest, input + rows, keeps ? before + rows : nullptr,
                                  keeps ? residual + rows : nullptr, n - rows, stream);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
