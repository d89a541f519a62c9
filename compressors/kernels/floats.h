// SPDX-License-Identifier: Apache-2.0
//
// Scalar conversions between fp32, fp16 and bf16, and the other bit work that the codecs and the scalar
// kernels share. Inputs are finite.
#ifndef TERSE_COMPRESSORS_KERNELS_FLOATS_H_
#define TERSE_COMPRESSORS_KERNELS_FLOATS_H_

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>

namespace terse::kernels {

inline constexpr float kMaxFp16 = 65504.0f;
inline constexpr float kMaxBf16 = 0x1.fep127f;

inline constexpr uint32_t kInfinityBits = 0x7f800000u;

inline float ClampFinite(float x) { return std::min(std::max(x, -FLT_MAX), FLT_MAX); }
inline uint32_t Magnitude(float x) { return std::bit_cast<uint32_t>(x) & 0x7fffffffu; }

inline float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline uint16_t ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(std::clamp(x, -kMaxBf16, kMaxBf16));
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// The nearest bf16 that is not greater than x, and not less. |x| <= kMaxBf16.
inline uint16_t ToBf16Down(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const bool away = (bits >> 31) != 0 && (bits & 0xffffu) != 0;
  return static_cast<uint16_t>((bits >> 16) + (away ? 1 : 0));
}
inline uint16_t ToBf16Up(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const bool away = (bits >> 31) == 0 && (bits & 0xffffu) != 0;
  return static_cast<uint16_t>((bits >> 16) + (away ? 1 : 0));
}

inline uint16_t ToFp16(float x) {
  const uint32_t sign = (std::bit_cast<uint32_t>(x) >> 16) & 0x8000u;
  const float magnitude = std::min(std::fabs(x), kMaxFp16);
  uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  if (magnitude < 0x1p-14f) {
    // Subnormal: adding 1/2 puts the unit of fp16's subnormals, 2^-24, into the last place of fp32.
    bits = std::bit_cast<uint32_t>(magnitude + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  } else {
    bits -= (127u - 15u) << 23;
    bits = (bits + 0xfffu + ((bits >> 13) & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | bits);
}

inline float FromFp16(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  uint32_t bits = (half & 0x7fffu) << 13;
  if ((half & 0x7c00u) == 0) {
    // Subnormal: the significand under the exponent of 2^-14, less that 2^-14.
    const float x = std::bit_cast<float>(bits + (113u << 23)) - 0x1p-14f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(x) | sign);
  }
  bits += (127u - 15u) << 23;
  return std::bit_cast<float>(bits | sign);
}

}  // namespace terse::kernels

#endif  // TERSE_COMPRESSORS_KERNELS_FLOATS_H_
