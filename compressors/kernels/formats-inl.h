// SPDX-License-Identifier: Apache-2.0
//
// The formats of elements that travel by themselves, as vectors: fp32, fp16, bf16.
#include <cstddef>

// Highway includes this once for each target, so the guard turns over with the target.
#if defined(TERSE_COMPRESSORS_KERNELS_FORMATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TERSE_COMPRESSORS_KERNELS_FORMATS_INL_H_
#undef TERSE_COMPRESSORS_KERNELS_FORMATS_INL_H_
#else
#define TERSE_COMPRESSORS_KERNELS_FORMATS_INL_H_
#endif

#include "compressors/kernels/floats.h"
#include "compressors/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace terse::kernels {
namespace HWY_NAMESPACE {

// A format has
//   Encode     the codes of values whose magnitude, as bits, is below kCare; Clamp makes them such
//   Pack       codes as they are stored, in half a vector where kBytes is 2
//   PackPair   there: the codes of two vectors in one
//   Decoded    what codes stand for
//   Decode     the same from memory, which need not be finite
struct Fp32 {
  static constexpr size_t kBytes = 4;
  static constexpr int32_t kCare = 0x7f800000;
  static HWY_INLINE VF Clamp(VF c) { return c; }
  static HWY_INLINE VF Encode(VF c) { return c; }
  static HWY_INLINE VF Pack(VF code) { return code; }
  static HWY_INLINE VF Decoded(VF code) { return code; }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VF x = hn::LoadU(kF32, reinterpret_cast<const float*>(in));
    finite = hn::And(finite, Finite(x));
    return x;
  }
};

using Halves = hn::Vec<U16>;

HWY_INLINE Halves PackHalves(VU codes) { return hn::DemoteTo(kU16, hn::BitCast(kI32, codes)); }
HWY_INLINE VU LoadHalves(const std::byte* in) {
  return hn::PromoteTo(kU32, hn::LoadU(kU16, reinterpret_cast<const uint16_t*>(in)));
}

constexpr hn::Repartition<uint16_t, F32> kU16Pair;
using HalvesPair = hn::Vec<hn::Repartition<uint16_t, F32>>;

HWY_INLINE HalvesPair Join(Halves first, Halves second) { return hn::Combine(kU16Pair, second, first); }

// The highest 16 bits of each lane of two vectors.
HWY_INLINE HalvesPair PackHighest(VU first, VU second) {
#if HWY_ARCH_X86
  constexpr hn::Repartition<int16_t, F32> kI16Pair;
  const VU packed =
      hn::BitCast(kU32, hn::ReorderDemote2To(kI16Pair, hn::ShiftRight<16>(hn::BitCast(kI32, first)),
                                             hn::ShiftRight<16>(hn::BitCast(kI32, second))));
  if constexpr (kN == 4) return hn::BitCast(kU16Pair, packed);
  // It takes turns by blocks of 128 bits.
  alignas(64) static constexpr uint32_t kOrder8[] = {0, 1, 4, 5, 2, 3, 6, 7};
  alignas(64) static constexpr uint32_t kOrder16[] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
  const auto order = hn::SetTableIndices(kU32, kN == 8 ? kOrder8 : kOrder16);
  return hn::BitCast(kU16Pair, hn::TableLookupLanes(packed, order));
#else
  return Join(PackHalves(hn::ShiftRight<16>(first)), PackHalves(hn::ShiftRight<16>(second)));
#endif
}

HWY_INLINE VF ClampTo(float greatest, VF c) {
  const VF most = hn::Set(kF32, greatest);
  return hn::Min(hn::Max(c, hn::Neg(most)), most);
}

// Less than what would be rounded to 2^16.
struct Fp16Range {
  static constexpr int32_t kCare = 0x477ff000;
  static HWY_INLINE VF Clamp(VF c) { return ClampTo(kMaxFp16, c); }
};

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)

// The processor converts as ToFp16 and FromFp16 do: to nearest even, subnormals included.
struct Fp16 : Fp16Range {
  using F16 = hn::Rebind<hwy::float16_t, F32>;
  static constexpr size_t kBytes = 2;
  static HWY_INLINE hn::Vec<F16> Encode(VF c) { return hn::DemoteTo(F16(), c); }
  static HWY_INLINE Halves Pack(hn::Vec<F16> code) { return hn::BitCast(kU16, code); }
  static HWY_INLINE HalvesPair PackPair(hn::Vec<F16> first, hn::Vec<F16> second) {
    return Join(Pack(first), Pack(second));
  }
  static HWY_INLINE VF Decoded(hn::Vec<F16> code) { return hn::PromoteTo(kF32, code); }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VF x = hn::PromoteTo(kF32, hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(in)));
    finite = hn::And(finite, Finite(x));
    return x;
  }
};

#else

// As ToFp16 and FromFp16 of floats.h.
struct Fp16 : Fp16Range {
  static constexpr size_t kBytes = 2;
  static HWY_INLINE VF Decoded(VU half) {
    const VU sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(kU32, 0x8000u)));
    const VU bits = hn::ShiftLeft<13>(hn::And(half, hn::Set(kU32, 0x7fffu)));
    const VF subnormal =
        hn::Sub(hn::BitCast(kF32, hn::Add(bits, hn::Set(kU32, 113u << 23))), hn::Set(kF32, 0x1p-14f));
    const VU normal = hn::Add(bits, hn::Set(kU32, 112u << 23));
    const auto small = hn::Eq(hn::And(half, hn::Set(kU32, 0x7c00u)), hn::Zero(kU32));
    const VU magnitude = hn::IfThenElse(small, hn::BitCast(kU32, subnormal), normal);
    return hn::BitCast(kF32, hn::Or(magnitude, sign));
  }
  static HWY_INLINE VU Encode(VF c) {
    const VU sign = hn::And(hn::ShiftRight<16>(hn::BitCast(kU32, c)), hn::Set(kU32, 0x8000u));
    const VF magnitude = hn::Abs(c);
    const VU subnormal = hn::Sub(hn::BitCast(kU32, hn::Add(magnitude, hn::Set(kF32, 0.5f))),
                                 hn::BitCast(kU32, hn::Set(kF32, 0.5f)));
    const VU bits = hn::Sub(hn::BitCast(kU32, magnitude), hn::Set(kU32, 112u << 23));
    const VU odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(kU32, 1u));
    const VU normal = hn::ShiftRight<13>(hn::Add(hn::Add(bits, hn::Set(kU32, 0xfffu)), odd));
    const auto small = hn::RebindMask(kU32, hn::Lt(magnitude, hn::Set(kF32, 0x1p-14f)));
    return hn::Or(hn::IfThenElse(small, subnormal, normal), sign);
  }
  static HWY_INLINE Halves Pack(VU code) { return PackHalves(code); }
  static HWY_INLINE HalvesPair PackPair(VU first, VU second) { return Join(Pack(first), Pack(second)); }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VU half = LoadHalves(in);
    const VU exponent = hn::Set(kU32, 0x7c00u);
    finite = hn::And(finite, hn::RebindMask(kF32, hn::Ne(hn::And(half, exponent), exponent)));
    return Decoded(half);
  }
};

#endif

struct Bf16 {
  static constexpr size_t kBytes = 2;
  static constexpr int32_t kCare = 0x7f7f8000;  // would be rounded to 2^128
  static HWY_INLINE VF Clamp(VF c) { return ClampTo(kMaxBf16, c); }
  // A code is the highest 16 bits of its lane, whatever the others are.
  static HWY_INLINE VU Encode(VF c) {
    const VU bits = hn::BitCast(kU32, c);
    const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kU32, 1u));
    return hn::Add(hn::Add(bits, hn::Set(kU32, 0x7fffu)), odd);
  }
  static HWY_INLINE Halves Pack(VU code) { return PackHalves(hn::ShiftRight<16>(code)); }
  static HWY_INLINE HalvesPair PackPair(VU first, VU second) { return PackHighest(first, second); }
  static HWY_INLINE VF Decoded(VU code) {
    return hn::BitCast(kF32, hn::And(code, hn::Set(kU32, 0xffff0000u)));
  }
  static HWY_INLINE VF Decode(const std::byte* in, MF& finite) {
    const VF x = hn::BitCast(kF32, hn::ShiftLeft<16>(LoadHalves(in)));
    finite = hn::And(finite, Finite(x));
    return x;
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace terse::kernels
HWY_AFTER_NAMESPACE();

#endif  // TERSE_COMPRESSORS_KERNELS_FORMATS_INL_H_
