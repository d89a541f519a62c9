// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of onebit: elements to signs and sums.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_ONEBIT_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_ONEBIT_ENCODE_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_ONEBIT_ENCODE_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_ONEBIT_ENCODE_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"
#include "proto/wire/bytes.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

using F64 = hn::Repartition<double, F32>;
constexpr F64 kF64;
constexpr size_t kDoubles = kLanes / hn::MaxLanes(kF64);  // vectors that hold a row in fp64

template <bool kL1>
HWY_INLINE void AddToSums(VF c, hn::Vec<F64>* sums) {
  const hn::Half<F32> half;
  if constexpr (kL1) c = hn::Abs(c);
  hn::Vec<F64> low = hn::PromoteTo(kF64, hn::LowerHalf(half, c));
  hn::Vec<F64> high = hn::PromoteTo(kF64, hn::UpperHalf(half, c));
  if constexpr (!kL1) {
    low = hn::Mul(low, low);
    high = hn::Mul(high, high);
  }
  sums[0] = hn::Add(sums[0], low);
  sums[1] = hn::Add(sums[1], high);
}

// c of a vector, for the sums: Fast gives it where it is finite, and else what is not finite.
template <bool kResidual>
struct CompensateRow {
  HWY_INLINE VF Fast(const float* input, const float* residual) const {
    const VF x = hn::LoadU(kF32, input);
    return kResidual ? hn::Add(x, hn::LoadU(kF32, residual)) : x;
  }
  HWY_INLINE VF Careful(const float* input, const float* residual, MF& finite) const {
    return Compensate<kResidual>(input, residual, 0, finite);
  }
  HWY_INLINE MF Negative(VF c) const { return hn::Lt(c, hn::Zero(kF32)); }
  float padding() const { return 0.0f; }  // a residual of which c is 0
};

// The same with a deferred residual, of a scale that is not 0. Such a c is not -0.
struct DeferRow {
  VF plus;
  VF minus;
  explicit HWY_INLINE DeferRow(float deferred) : plus(hn::Set(kF32, deferred)), minus(hn::Neg(plus)) {}
  HWY_INLINE VF Left(const float* residual) const {
    const VF before = hn::LoadU(kF32, residual);
    return hn::Sub(before, hn::IfThenElse(hn::Lt(before, hn::Zero(kF32)), minus, plus));
  }
  HWY_INLINE VF Fast(const float* input, const float* residual) const {
    return hn::Add(hn::LoadU(kF32, input), Left(residual));
  }
  HWY_INLINE VF Careful(const float* input, const float* residual, MF& finite) const {
    return ClampFinite(hn::Add(Compensate<false>(input, nullptr, 0, finite), Left(residual)));
  }
  HWY_INLINE MF Negative(VF c) const {
#if HWY_ARCH_X86
    return hn::MaskFromVec(c);  // by its signs
#else
    return hn::Lt(c, hn::Zero(kF32));
#endif
  }
  float padding() const { return hn::GetLane(plus); }
};

// Whether the c of a row are finite, by their magnitudes' bits: a NaN is above all others there.
HWY_INLINE bool RowIsFinite(const VF* c) {
  VI greatest = hn::BitCast(kI32, hn::Abs(c[0]));
  for (size_t v = 1; v < kVectors; ++v) greatest = hn::Max(greatest, hn::BitCast(kI32, hn::Abs(c[v])));
  return hn::AllTrue(kF32, hn::Le(hn::BitCast(kF32, greatest), hn::Set(kF32, FLT_MAX)));
}

// Adds c of a row to the sums, and keeps it in the residual. Returns whether the row's input was finite.
template <bool kL1, Keep kKeep, bool kSigns, typename Row>
HWY_INLINE bool SumRow(const Row& row, const float* input, const float* before, float* residual,
                       std::byte* bits, hn::Vec<F64>* sums) {
  const auto before_at = [before](size_t i) { return kKeep != Keep::kNot ? before + i : nullptr; };
  VF c[kVectors];
  for (size_t v = 0; v < kVectors; ++v) c[v] = row.Fast(input + v * kN, before_at(v * kN));
  bool good = true;
  if (HWY_UNLIKELY(!RowIsFinite(c))) {
    MF finite = AllLanes();
    for (size_t v = 0; v < kVectors; ++v) c[v] = row.Careful(input + v * kN, before_at(v * kN), finite);
    good = hn::AllTrue(kF32, finite);
  }
  MF negative[kVectors];
  for (size_t v = 0; v < kVectors; ++v) {
    StoreResidual<kKeep>(c[v], residual + v * kN);
    AddToSums<kL1>(c[v], sums + 2 * v);
    if constexpr (kSigns) negative[v] = row.Negative(c[v]);
  }
  if constexpr (kSigns) wire::Store(bits, static_cast<uint16_t>(RowBits(negative)));
  return good;
}

template <bool kL1, Keep kKeep, bool kSigns, typename Row>
Sum SumChunks(const Row row, const float* input, const float* before, float* residual, size_t n,
              std::byte* bits) {
  constexpr bool kKeeps = kKeep != Keep::kNot;
  const auto before_at = [before](size_t i) { return kKeeps ? before + i : nullptr; };
  const auto residual_at = [residual](size_t i) { return kKeeps ? residual + i : nullptr; };
  const auto bits_at = [bits](size_t i) { return kSigns ? bits + i / 8 : nullptr; };
  Sum total;
  bool good = true;
  for (size_t chunk = 0; chunk < n; chunk += kSumChunk) {
    hn::Vec<F64> sums[kDoubles];
    for (hn::Vec<F64>& sum : sums) sum = hn::Zero(kF64);
    const size_t end = std::min(n, chunk + kSumChunk);
    size_t i = chunk;
    for (; i + kLanes <= end; i += kLanes) {
      good &= SumRow<kL1, kKeep, kSigns>(row, input + i, before_at(i), residual_at(i), bits_at(i), sums);
    }
    if (i < end) {
      // The last row, filled up with what comes to zeros, which add nothing.
      alignas(64) float last[2][kLanes] = {};
      std::byte last_bits[kLanes / 8];
      std::fill_n(last[1], kLanes, row.padding());
      std::memcpy(last[0], input + i, (end - i) * sizeof(float));
      if constexpr (kKeeps) std::memcpy(last[1], before + i, (end - i) * sizeof(float));
      constexpr Keep kHere = kKeeps ? Keep::kInResidual : Keep::kNot;
      good &= SumRow<kL1, kHere, kSigns>(row, last[0], last[1], last[1], last_bits, sums);
      if constexpr (kKeeps) std::memcpy(residual + i, last[1], (end - i) * sizeof(float));
      if constexpr (kSigns) std::memcpy(bits + i / 8, last_bits, (end - i + 7) / 8);
    }
    double lanes[kLanes];
    for (size_t v = 0; v < kDoubles; ++v) hn::StoreU(sums[v], kF64, lanes + v * hn::MaxLanes(kF64));
    for (size_t half = kLanes / 2; half > 0; half /= 2) {
      for (size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    total.value += lanes[0];
  }
  total.nonfinite = !good;
  return total;
}

template <Keep kKeep, bool kSigns, typename Row>
Sum SumRows(wire::ScaleNorm norm, const Row row, const float* input, const float* before, float* residual,
            size_t n, std::byte* bits) {
  return norm == wire::ScaleNorm::kL1
             ? SumChunks<true, kKeep, kSigns>(row, input, before, residual, n, bits)
             : SumChunks<false, kKeep, kSigns>(row, input, before, residual, n, bits);
}

Sum OneBitSum(wire::ScaleNorm norm, const float* input, float* residual, size_t n) {
  if (residual == nullptr) {
    return SumRows<Keep::kNot, false>(norm, CompensateRow<false>(), input, nullptr, nullptr, n, nullptr);
  }
  return SumRows<Keep::kInResidual, false>(norm, CompensateRow<true>(), input, residual, residual, n,
                                           nullptr);
}

template <typename Row>
Sum DeferRows(wire::ScaleNorm norm, const Row row, const float* input, const float* before, float* residual,
              size_t n, std::byte* bits) {
  if (GoesAround(before, residual)) {
    return SumRows<Keep::kAroundCaches, true>(norm, row, input, before, residual, n, bits);
  }
  return SumRows<Keep::kInResidual, true>(norm, row, input, before, residual, n, bits);
}

Sum OneBitDefer(wire::ScaleNorm norm, float deferred, const float* input, const float* before,
                float* residual, size_t n, std::byte* bits) {
  if (residual == nullptr) {
    return SumRows<Keep::kNot, true>(norm, CompensateRow<false>(), input, nullptr, nullptr, n, bits);
  }
  if (deferred == 0.0f) {
    return DeferRows(norm, CompensateRow<true>(), input, before, residual, n, bits);
  }
  return DeferRows(norm, DeferRow(deferred), input, before, residual, n, bits);
}

template <bool kResidual>
void EncodeSigns(float scale, const float* input, float* residual, size_t n, std::byte* bits) {
  const VF plus = hn::Set(kF32, scale);
  const VF minus = hn::Neg(plus);
  for (size_t i = 0; i < n; i += kLanes) {
    MF negative[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t at = i + v * kN;
      const VF c = Compensated<kResidual>(input, residual, at);
      negative[v] = hn::Lt(c, hn::Zero(kF32));
      if constexpr (kResidual) {
        hn::StoreU(hn::Sub(c, hn::IfThenElse(negative[v], minus, plus)), kF32, residual + at);
      }
    }
    wire::Store(bits + i / 8, static_cast<uint16_t>(RowBits(negative)));
  }
}

void OneBitEncode(float scale, const float* input, float* residual, size_t n, std::byte* bits) {
  const size_t rows = WholeRows(n);
  float* rest = nullptr;
  if (residual == nullptr) {
    EncodeSigns<false>(scale, input, residual, rows, bits);
  } else {
    EncodeSigns<true>(scale, input, residual, rows, bits);
    rest = residual + rows;
  }
  ScalarKernels().onebit_encode(scale, input + rows, rest, n - rows, bits + rows / 8);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_ONEBIT_ENCODE_INL_H_
