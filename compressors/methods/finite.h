// SPDX-License-Identifier: Apache-2.0
//
// Finiteness by bit pattern: one integer compare, so that the loops over gradients vectorise and mean
// the same under every compiler's floating-point assumptions.
#ifndef TERSE_COMPRESSORS_METHODS_FINITE_H_
#define TERSE_COMPRESSORS_METHODS_FINITE_H_

#include <bit>
#include <cstdint>

#include "absl/types/span.h"

namespace terse {

// False for NaN and both infinities.
inline bool IsFinite(float value) {
  constexpr uint32_t kExponent = 0x7f800000;
  return (std::bit_cast<uint32_t>(value) & kExponent) != kExponent;
}

// `yes` or `no`, by masks: a conditional around floating-point arithmetic would keep a loop scalar.
inline float Select(bool condition, float yes, float no) {
  const uint32_t mask = condition ? ~0u : 0u;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(yes) & mask) | (std::bit_cast<uint32_t>(no) & ~mask));
}

inline bool AllFinite(absl::Span<const float> values) {
  uint32_t found = 0;
  for (const float value : values) found |= IsFinite(value) ? 0u : 1u;
  return found == 0;
}

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_FINITE_H_
