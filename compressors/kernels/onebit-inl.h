// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of onebit.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_ONEBIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_ONEBIT_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_ONEBIT_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_ONEBIT_INL_H_
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

// What the sum of a row is taken of: its c, which is left in the residual.
template <bool kResidual>
struct CompensateRow {
  static constexpr bool kSigns = false;
  float padding() const { return 0.0f; }
  HWY_INLINE void Run(const float* input, float* residual, std::byte*, VF* c, MF& finite) const {
    for (size_t v = 0; v < kVectors; ++v) {
      c[v] = Compensate<kResidual>(input, residual, v * kN, finite);
      if constexpr (kResidual) hn::StoreU(c[v], kF32, residual + v * kN);
    }
  }
};

// The same with a deferred residual, and c's signs.
template <bool kResidual>
struct DeferRow {
  static constexpr bool kSigns = true;
  float deferred;
  float padding() const { return deferred; }  // of which nothing is left
  HWY_INLINE void Run(const float* input, float* residual, std::byte* bits, VF* c, MF& finite) const {
    const VF plus = hn::Set(kF32, deferred);
    MF negative[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      c[v] = Compensate<false>(input, nullptr, v * kN, finite);
      if constexpr (kResidual) {
        const VF before = hn::LoadU(kF32, residual + v * kN);
        const VF sent = hn::IfThenElse(hn::Lt(before, hn::Zero(kF32)), hn::Neg(plus), plus);
        c[v] = ClampFinite(hn::Add(c[v], hn::Sub(before, sent)));
        hn::StoreU(c[v], kF32, residual + v * kN);
      }
      negative[v] = hn::Lt(c[v], hn::Zero(kF32));
    }
    wire::Store(bits, static_cast<uint16_t>(RowBits(negative)));
  }
};

template <bool kL1, bool kResidual, typename Row>
Sum SumChunks(const Row& row, const float* input, float* residual, size_t n, std::byte* bits) {
  const auto residual_at = [residual](size_t i) { return kResidual ? residual + i : nullptr; };
  const auto bits_at = [bits](size_t i) { return Row::kSigns ? bits + i / 8 : nullptr; };
  Sum total;
  MF finite = AllLanes();
  for (size_t chunk = 0; chunk < n; chunk += kSumChunk) {
    hn::Vec<F64> sums[kDoubles];
    for (hn::Vec<F64>& sum : sums) sum = hn::Zero(kF64);
    VF c[kVectors];
    const size_t end = std::min(n, chunk + kSumChunk);
    size_t i = chunk;
    for (; i + kLanes <= end; i += kLanes) {
      row.Run(input + i, residual_at(i), bits_at(i), c, finite);
      for (size_t v = 0; v < kVectors; ++v) AddToSums<kL1>(c[v], sums + 2 * v);
    }
    if (i < end) {
      // The last row, filled up with what comes to zeros, which add nothing.
      float last[2][kLanes] = {};
      std::byte last_bits[kLanes / 8];
      std::fill_n(last[1], kLanes, row.padding());
      std::memcpy(last[0], input + i, (end - i) * sizeof(float));
      if constexpr (kResidual) std::memcpy(last[1], residual + i, (end - i) * sizeof(float));
      row.Run(last[0], last[1], last_bits, c, finite);
      for (size_t v = 0; v < kVectors; ++v) AddToSums<kL1>(c[v], sums + 2 * v);
      if constexpr (kResidual) std::memcpy(residual + i, last[1], (end - i) * sizeof(float));
      if constexpr (Row::kSigns) std::memcpy(bits + i / 8, last_bits, (end - i + 7) / 8);
    }
    double lanes[kLanes];
    for (size_t v = 0; v < kDoubles; ++v) hn::StoreU(sums[v], kF64, lanes + v * hn::MaxLanes(kF64));
    for (size_t half = kLanes / 2; half > 0; half /= 2) {
      for (size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    total.value += lanes[0];
  }
  total.nonfinite = !hn::AllTrue(kF32, finite);
  return total;
}

// SumChunks for the norm and for a residual or none; Row<kResidual> is made of `with`.
template <template <bool> typename Row, typename... With>
Sum SumRows(wire::ScaleNorm norm, const float* input, float* residual, size_t n, std::byte* bits,
            With... with) {
  const bool l1 = norm == wire::ScaleNorm::kL1;
  if (residual == nullptr) {
    const Row<false> row{with...};
    return l1 ? SumChunks<true, false>(row, input, residual, n, bits)
              : SumChunks<false, false>(row, input, residual, n, bits);
  }
  const Row<true> row{with...};
  return l1 ? SumChunks<true, true>(row, input, residual, n, bits)
            : SumChunks<false, true>(row, input, residual, n, bits);
}

Sum OneBitSum(wire::ScaleNorm norm, const float* input, float* residual, size_t n) {
  return SumRows<CompensateRow>(norm, input, residual, n, nullptr);
}

Sum OneBitDefer(wire::ScaleNorm norm, float deferred, const float* input, float* residual, size_t n,
                std::byte* bits) {
  return SumRows<DeferRow>(norm, input, residual, n, bits, deferred);
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

struct DecodeSignRows {
  const Peers& bits;
  const float* scales;
  float* out;

  template <size_t kPeers>
  HWY_INLINE void Run(size_t first, Start start, size_t begin, size_t end) const {
    VF plus[kPeers];
    for (size_t p = 0; p < kPeers; ++p) plus[p] = hn::Set(kF32, scales[first + p]);
    for (size_t i = begin; i < end; i += kLanes) {
      for (size_t v = 0; v < kVectors; ++v) {
        VF sum = StartValue(start, out + i + v * kN);
        for (size_t p = 0; p < kPeers; ++p) {
          const MF negative = RowMask(bits.data[first + p] + i / 8, v);
          sum = AddTerm(start, sum, hn::IfThenElse(negative, hn::Neg(plus[p]), plus[p]));
        }
        StoreSum(start, sum, out + i + v * kN);
      }
    }
  }
};

void OneBitDecode(const Peers& bits, const float* scales, Start start, float* out, size_t n) {
  const size_t rows = WholeRows(n);
  DecodeByGroups(bits.count, StartAt(start, out), rows, DecodeSignRows{bits, scales, out});
  ScalarKernels().onebit_decode(Behind(bits, rows / 8), scales, start, out + rows, n - rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_ONEBIT_INL_H_
