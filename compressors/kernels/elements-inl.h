// SPDX-License-Identifier: Apache-2.0
//
// SIMD kernels of the codecs that send each element by itself.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
#endif

#include <algorithm>

#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/rows-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

struct Fp32 {
  static constexpr size_t kBytes = 4;
  static HWY_INLINE VF Encode(VF c, std::byte* out) {
    hn::StoreU(c, kF32, reinterpret_cast<float*>(out));
    return c;
  }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VF x = hn::LoadU(kF32, reinterpret_cast<const float*>(in));
    finite = hn::And(finite, Finite(x));
    return x;
  }
};

HWY_INLINE void StoreHalves(VU halves, std::byte* out) {
  hn::StoreU(hn::DemoteTo(kU16, hn::BitCast(kI32, halves)), kU16, reinterpret_cast<uint16_t*>(out));
}
HWY_INLINE VU LoadHalves(const std::byte* in) {
  return hn::PromoteTo(kU32, hn::LoadU(kU16, reinterpret_cast<const uint16_t*>(in)));
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)

// The processor converts as ToFp16 and FromFp16 do: to nearest even, subnormals included.
struct Fp16 {
  using F16 = hn::Rebind<hwy::float16_t, F32>;
  static constexpr size_t kBytes = 2;
  static HWY_INLINE VF Encode(VF c, std::byte* out) {
    const VF greatest = hn::Set(kF32, 65504.0f);
    const auto half = hn::DemoteTo(F16(), hn::Min(hn::Max(c, hn::Neg(greatest)), greatest));
    hn::StoreU(half, F16(), reinterpret_cast<hwy::float16_t*>(out));
    return hn::PromoteTo(kF32, half);
  }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VF x = hn::PromoteTo(kF32, hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(in)));
    finite = hn::And(finite, Finite(x));
    return x;
  }
};

#else

// As ToFp16 and FromFp16 of floats.h.
struct Fp16 {
  static constexpr size_t kBytes = 2;
  static HWY_INLINE VF Value(VU half) {
    const VU sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(kU32, 0x8000u)));
    const VU bits = hn::ShiftLeft<13>(hn::And(half, hn::Set(kU32, 0x7fffu)));
    const VF subnormal =
        hn::Sub(hn::BitCast(kF32, hn::Add(bits, hn::Set(kU32, 113u << 23))), hn::Set(kF32, 0x1p-14f));
    const VU normal = hn::Add(bits, hn::Set(kU32, 112u << 23));
    const auto small = hn::Eq(hn::And(half, hn::Set(kU32, 0x7c00u)), hn::Zero(kU32));
    const VU magnitude = hn::IfThenElse(small, hn::BitCast(kU32, subnormal), normal);
    return hn::BitCast(kF32, hn::Or(magnitude, sign));
  }
  static HWY_INLINE VF Encode(VF c, std::byte* out) {
    const VU sign = hn::And(hn::ShiftRight<16>(hn::BitCast(kU32, c)), hn::Set(kU32, 0x8000u));
    const VF magnitude = hn::Min(hn::Abs(c), hn::Set(kF32, 65504.0f));
    const VU subnormal = hn::Sub(hn::BitCast(kU32, hn::Add(magnitude, hn::Set(kF32, 0.5f))),
                                 hn::BitCast(kU32, hn::Set(kF32, 0.5f)));
    const VU bits = hn::Sub(hn::BitCast(kU32, magnitude), hn::Set(kU32, 112u << 23));
    const VU odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(kU32, 1u));
    const VU normal = hn::ShiftRight<13>(hn::Add(hn::Add(bits, hn::Set(kU32, 0xfffu)), odd));
    const auto small = hn::RebindMask(kU32, hn::Lt(magnitude, hn::Set(kF32, 0x1p-14f)));
    const VU half = hn::Or(hn::IfThenElse(small, subnormal, normal), sign);
    StoreHalves(half, out);
    return Value(half);
  }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VU half = LoadHalves(in);
    const VU exponent = hn::Set(kU32, 0x7c00u);
    finite = hn::And(finite, hn::RebindMask(kF32, hn::Ne(hn::And(half, exponent), exponent)));
    return Value(half);
  }
};

#endif

struct Bf16 {
  static constexpr size_t kBytes = 2;
  static HWY_INLINE VF Encode(VF c, std::byte* out) {
    const VF greatest = hn::Set(kF32, 0x1.fep127f);
    const VU bits = hn::BitCast(kU32, hn::Min(hn::Max(c, hn::Neg(greatest)), greatest));
    const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kU32, 1u));
    const VU half = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(kU32, 0x7fffu)), odd));
    StoreHalves(half, out);
    return hn::BitCast(kF32, hn::ShiftLeft<16>(half));
  }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VF x = hn::BitCast(kF32, hn::ShiftLeft<16>(LoadHalves(in)));
    finite = hn::And(finite, Finite(x));
    return x;
  }
};

template <typename Format, bool kResidual>
bool EncodeRows(const float* input, float* residual, size_t n, std::byte* out) {
  MF finite = AllLanes();
  for (size_t i = 0; i < n; i += kN) {
    const VF c = Compensate<kResidual>(input, residual, i, finite);
    const VF decoded = Format::Encode(c, out + i * Format::kBytes);
    if constexpr (kResidual) hn::StoreU(hn::Sub(c, decoded), kF32, residual + i);
  }
  return !hn::AllTrue(kF32, finite);
}

// Without a residual, to an output at a multiple of 64 bytes.
template <typename Format>
bool StreamRows(const float* input, size_t n, std::byte* out) {
  using U8 = hn::Repartition<uint8_t, F32>;
  constexpr U8 kU8;
  constexpr size_t kLineBytes = kLanes * Format::kBytes;
  static_assert(kLineBytes % hn::MaxLanes(kU8) == 0 || kLineBytes < hn::MaxLanes(kU8));
  constexpr size_t kRows = std::max<size_t>(1, hn::MaxLanes(kU8) / kLineBytes);
  MF finite = AllLanes();
  size_t i = 0;
  for (; i + kRows * kLanes <= n; i += kRows * kLanes) {
    HWY_ALIGN std::byte rows[kRows * kLineBytes];
    for (size_t v = 0; v < kRows * kVectors; ++v) {
      Format::Encode(Compensate<false>(input, nullptr, i + v * kN, finite), rows + v * kN * Format::kBytes);
    }
    for (size_t b = 0; b < sizeof(rows); b += hn::MaxLanes(kU8)) {
      hn::Stream(hn::Load(kU8, reinterpret_cast<const uint8_t*>(rows) + b), kU8,
                 reinterpret_cast<uint8_t*>(out + i * Format::kBytes) + b);
    }
  }
  hwy::FlushStream();
  const bool rest = EncodeRows<Format, false>(input + i, nullptr, n - i, out + i * Format::kBytes);
  return !hn::AllTrue(kF32, finite) || rest;
}

template <typename Format>
bool EncodeElementsAs(ElementFormat format, const float* input, float* residual, size_t n, std::byte* out) {
  const size_t rows = WholeRows(n);
  const bool streams = BeyondCaches(n * Format::kBytes) && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  bool found = false;
  if (residual != nullptr) {
    found = EncodeRows<Format, true>(input, residual, rows, out);
  } else if (streams) {
    found = StreamRows<Format>(input, rows, out);
  } else {
    found = EncodeRows<Format, false>(input, residual, rows, out);
  }
  float* rest = residual == nullptr ? nullptr : residual + rows;
  return ScalarKernels().encode_elements(format, input + rows, rest, n - rows, out + rows * Format::kBytes) ||
         found;
}

bool EncodeElements(ElementFormat format, const float* input, float* residual, size_t n, std::byte* out) {
  switch (format) {
    case ElementFormat::kFp32:
      return EncodeElementsAs<Fp32>(format, input, residual, n, out);
    case ElementFormat::kFp16:
      return EncodeElementsAs<Fp16>(format, input, residual, n, out);
    case ElementFormat::kBf16:
      return EncodeElementsAs<Bf16>(format, input, residual, n, out);
  }
  return false;
}

template <typename Format>
struct DecodeElementRows {
  const Peers& peers;
  float weight;
  float* out;
  MF& finite;

  template <size_t kPeers>
  HWY_INLINE void Run(size_t first, Start start, size_t begin, size_t end) const {
    const std::byte* const* data = peers.data + first;
    const VF by = hn::Set(kF32, weight);
    MF good = finite;
    for (size_t i = begin; i < end; i += kN) {
      VF sum = StartValue(start, out + i);
      for (size_t p = 0; p < kPeers; ++p) {
        sum = AddTerm(start, sum, hn::Mul(by, Format::Decode(data[p] + i * Format::kBytes, good)));
      }
      StoreSum(start, sum, out + i);
    }
    finite = good;
  }
};

template <typename Format>
bool DecodeElementsAs(ElementFormat format, const Peers& peers, float weight, Start start, float* out,
                      size_t n) {
  const size_t rows = WholeRows(n);
  MF finite = AllLanes();
  DecodeByGroups(peers.count, StartAt(start, out), rows,
                 DecodeElementRows<Format>{peers, weight, out, finite});
  return ScalarKernels().decode_elements(format, Behind(peers, rows * Format::kBytes), weight, start,
                                         out + rows, n - rows) &&
         hn::AllTrue(kF32, finite);
}

bool DecodeElements(ElementFormat format, const Peers& peers, float weight, Start start, float* out,
                    size_t n) {
  switch (format) {
    case ElementFormat::kFp32:
      return DecodeElementsAs<Fp32>(format, peers, weight, start, out, n);
    case ElementFormat::kFp16:
      return DecodeElementsAs<Fp16>(format, peers, weight, start, out, n);
    case ElementFormat::kBf16:
      return DecodeElementsAs<Bf16>(format, peers, weight, start, out, n);
  }
  return false;
}

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_ELEMENTS_INL_H_
