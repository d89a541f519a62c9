// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of quantize: ranges and codes.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_QUANTIZE_ENCODE_INL_H_
#endif

#include <algorithm>
#include <limits>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

template <bool kResidual>
Range RangeOfRows(const float* input, float* residual, size_t n) {
  MF finite = AllLanes();
  VF low = hn::Set(kF32, std::numeric_limits<float>::infinity());
  VF high = hn::Neg(low);
  for (size_t i = 0; i < n; i += kN) {
    const VF c = Compensate<kResidual>(input, residual, i, finite);
    if constexpr (kResidual) hn::StoreU(c, kF32, residual + i);
    low = hn::Min(low, c);
    high = hn::Max(high, c);
  }
  return {hn::GetLane(hn::MinOfLanes(kF32, low)), hn::GetLane(hn::MaxOfLanes(kF32, high)),
          !hn::AllTrue(kF32, finite)};
}

Range FindRange(const float* input, float* residual, size_t n) {
  const size_t rows = WholeRows(n);
  const Range most = residual == nullptr ? RangeOfRows<false>(input, residual, rows)
                                         : RangeOfRows<true>(input, residual, rows);
  if (rows == n) return most;
  float* last = residual == nullptr ? nullptr : residual + rows;
  const Range rest = ScalarKernels().range(input + rows, last, n - rows);
  return {std::min(most.low, rest.low), std::max(most.high, rest.high), most.nonfinite || rest.nonfinite};
}

// Makes the codes of rows and appends them to the lanes' streams.
template <bool kResidual, bool kStochastic>
class CodeWriter {
 public:
  HWY_INLINE CodeWriter(const Quantizer& quantizer, const float* input, float* residual, LaneStream& stream)
      : input_(input),
        residual_(residual),
        bits_(static_cast<int>(quantizer.bits)),
        fill_(static_cast<int>(stream.fill)),
        out_(stream.out),
        minimum_(hn::Set(kF32, quantizer.minimum)),
        unit_(hn::Set(kF32, quantizer.unit)),
        inverse_(hn::Set(kF32, quantizer.inverse)),
        levels_(hn::Set(kF32, static_cast<float>(quantizer.greatest_code))),
        mask_(hn::Set(kU32, (1u << quantizer.bits) - 1)) {
    for (size_t v = 0; v < kVectors; ++v) words_[v] = hn::LoadU(kU32, stream.word + v * kN);
  }

  // The row at element i; offsets[v] is added to the codes of vector v before they are rounded.
  HWY_INLINE void Row(size_t i, const VF* offsets) {
    VU codes[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t at = i + v * kN;
      const VF c = Compensated<kResidual>(input_, residual_, at);
      VF scaled = hn::Mul(hn::Sub(c, minimum_), inverse_);
      if constexpr (kStochastic) scaled = hn::Add(scaled, offsets[v]);
      scaled = hn::Min(hn::Max(scaled, hn::Zero(kF32)), levels_);
      const VF magic = hn::Set(kF32, kRoundToInteger);
      const VF rounded = hn::Add(scaled, magic);
      codes[v] = hn::And(hn::BitCast(kU32, rounded), mask_);
      if constexpr (kResidual) {
        const VF decoded = hn::Add(minimum_, hn::Mul(hn::Sub(rounded, magic), unit_));
        hn::StoreU(hn::Sub(c, decoded), kF32, residual_ + at);
      }
      words_[v] = hn::Or(words_[v], hn::ShiftLeftSame(codes[v], fill_));
    }
    fill_ += bits_;
    if (fill_ < 32) return;
    fill_ -= 32;
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(words_[v], kU32, reinterpret_cast<uint32_t*>(out_) + v * kN);
      words_[v] = hn::ShiftRightSame(codes[v], bits_ - fill_);
    }
    out_ += kLanes * sizeof(uint32_t);
  }

  HWY_INLINE void Finish(LaneStream& stream) {
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(words_[v], kU32, stream.word + v * kN);
    stream.fill = static_cast<uint32_t>(fill_);
    stream.out = out_;
  }

 private:
  const float* input_;
  float* residual_;
  int bits_;
  int fill_;
  std::byte* out_;
  VF minimum_, unit_, inverse_, levels_;
  VU mask_;
  VU words_[kVectors];
};

// RandomWord of kernels.h for the counters of a pair of rows, in vector v.
HWY_INLINE VU RandomWords(const uint32_t key[2], uint64_t pair, size_t v) {
  const uint32_t first = static_cast<uint32_t>(pair * kLanes + v * kN);
  VU x = hn::Mul(hn::Iota(kU32, 0), hn::Set(kU32, kCounterStep));
  x = hn::Add(x, hn::Set(kU32, first * kCounterStep + key[0]));
  x = hn::Xor(x, hn::ShiftRight<16>(x));
  x = hn::Mul(x, hn::Set(kU32, 0x7feb352du));
  x = hn::Xor(x, hn::Set(kU32, key[1]));
  x = hn::Xor(x, hn::ShiftRight<15>(x));
  x = hn::Mul(x, hn::Set(kU32, 0x846ca68bu));
  return hn::Xor(x, hn::ShiftRight<16>(x));
}

HWY_INLINE VF Offset(VU half) {
  const VF x = hn::ConvertTo(kF32, hn::BitCast(kI32, half));
  return hn::Sub(hn::Mul(x, hn::Set(kF32, kHalfToOffset)), hn::Set(kF32, kOffsetShift));
}

// Brings the same place of the next block into the cache: its first pass follows this block's second.
template <bool kResidual>
HWY_INLINE void PrefetchNextBlock(const float* input, const float* residual, size_t at) {
  PrefetchAhead(input, at);
  if constexpr (kResidual) PrefetchAhead(residual, at);
}

template <bool kResidual>
void EncodeNearest(const Quantizer& quantizer, const float* input, float* residual, size_t n,
                   LaneStream& stream) {
  CodeWriter<kResidual, false> writer(quantizer, input, residual, stream);
  for (size_t i = 0; i < n; i += kLanes) {
    PrefetchNextBlock<kResidual>(input, residual, n + i);
    writer.Row(i, nullptr);
  }
  writer.Finish(stream);
}

template <bool kResidual>
void EncodeStochastic(const Quantizer& quantizer, const float* input, float* residual, size_t n,
                      LaneStream& stream) {
  CodeWriter<kResidual, true> writer(quantizer, input, residual, stream);
  uint64_t row = quantizer.row;
  for (size_t i = 0; i < n;) {
    VF low[kVectors];
    VF high[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      const VU random = RandomWords(quantizer.key, row / 2, v);
      low[v] = Offset(hn::And(random, hn::Set(kU32, 0xffffu)));
      high[v] = Offset(hn::ShiftRight<16>(random));
    }
    PrefetchNextBlock<kResidual>(input, residual, n + i);
    PrefetchNextBlock<kResidual>(input, residual, n + i + kLanes);
    if (row % 2 == 0) {
      writer.Row(i, low);
      i += kLanes;
      ++row;
    }
    if (i == n) break;
    writer.Row(i, high);
    i += kLanes;
    ++row;
  }
  writer.Finish(stream);
}

void QuantizeEncode(const Quantizer& quantizer, const float* input, float* residual, size_t n,
                    LaneStream& stream) {
  const size_t rows = WholeRows(n);
  if (quantizer.stochastic) {
    residual == nullptr ? EncodeStochastic<false>(quantizer, input, residual, rows, stream)
                        : EncodeStochastic<true>(quantizer, input, residual, rows, stream);
  } else {
    residual == nullptr ? EncodeNearest<false>(quantizer, input, residual, rows, stream)
                        : EncodeNearest<true>(quantizer, input, residual, rows, stream);
  }
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
