// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/convert.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "compressors/kernels/floats.h"

namespace terse::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kRoundsToInfinity = 65520.0f;  // halfway between fp16's greatest value and the next binade

// kernels::FromFp16 and its kin take finite values; here the specials pass too.
float HalfToFloat(uint16_t half) {
  if ((half & 0x7c00u) != 0x7c00u) return kernels::FromFp16(half);
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  return std::bit_cast<float>(sign | 0x7f800000u | (uint32_t{half & 0x3ffu} << 13));
}

uint16_t FloatToHalf(float x) {
  if (std::isfinite(x)) return kernels::ToFp16(x);
  const auto sign = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16 & 0x8000u);
  return static_cast<uint16_t>(sign | (std::isnan(x) ? 0x7e00u : 0x7c00u));
}

uint16_t FloatToBf16(float x) {
  if (std::isfinite(x)) return kernels::ToBf16(x);
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16 | (std::isnan(x) ? 0x40u : 0u));
}

}  // namespace

void ToFloat(wire::DType dtype, const void* from, double factor, absl::Span<float> to) {
  const auto f = static_cast<float>(factor);
  switch (dtype) {
    case wire::DType::kFloat32:
      for (size_t i = 0; i < to.size(); ++i) to[i] = static_cast<const float*>(from)[i] * f;
      return;
    case wire::DType::kFloat64:
      for (size_t i = 0; i < to.size(); ++i) {
        to[i] = static_cast<float>(static_cast<const double*>(from)[i] * factor);
      }
      return;
    case wire::DType::kFloat16:
      for (size_t i = 0; i < to.size(); ++i) to[i] = HalfToFloat(static_cast<const uint16_t*>(from)[i]) * f;
      return;
    case wire::DType::kBFloat16:
      for (size_t i = 0; i < to.size(); ++i)
        to[i] = kernels::FromBf16(static_cast<const uint16_t*>(from)[i]) * f;
      return;
  }
}

void FromFloat(wire::DType dtype, absl::Span<const float> from, double factor, void* to,
               std::vector<Excess>* excess) {
  const auto f = static_cast<float>(factor);
  switch (dtype) {
    case wire::DType::kFloat32:
      for (size_t i = 0; i < from.size(); ++i) static_cast<float*>(to)[i] = from[i] * f;
      return;
    case wire::DType::kFloat64:
      for (size_t i = 0; i < from.size(); ++i) static_cast<double*>(to)[i] = from[i] * factor;
      return;
    case wire::DType::kFloat16:
      for (size_t i = 0; i < from.size(); ++i) {
        const float x = from[i] * f;
        const bool cut = std::fabs(x) >= kRoundsToInfinity && std::isfinite(x);
        if (cut && excess == nullptr) {
          static_cast<uint16_t*>(to)[i] = FloatToHalf(std::copysign(kInfinity, x));
          continue;
        }
        static_cast<uint16_t*>(to)[i] = FloatToHalf(x);
        if (cut) excess->push_back({.at = i, .value = (x - std::copysign(kernels::kMaxFp16, x)) / f});
      }
      return;
    case wire::DType::kBFloat16:
      for (size_t i = 0; i < from.size(); ++i) static_cast<uint16_t*>(to)[i] = FloatToBf16(from[i] * f);
      return;
  }
}

}  // namespace terse::engine
