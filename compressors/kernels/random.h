// SPDX-License-Identifier: Apache-2.0
//
// The random numbers of the kernels, which are those of a counter.
#ifndef TERSE_COMPRESSORS_KERNELS_RANDOM_H_
#define TERSE_COMPRESSORS_KERNELS_RANDOM_H_

#include <cstddef>
#include <cstdint>

namespace terse::kernels {

// A random word of a counter.
inline constexpr uint32_t kCounterStep = 0x9e3779b9u;
inline uint32_t RandomWord(const uint32_t key[2], uint32_t counter) {
  uint32_t x = counter * kCounterStep + key[0];
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= key[1];
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

// Stochastic rounding's random numbers. Each 32 rows and each lane have a linear congruential sequence of
// their own, which begins with the random word of counter 16 (row / 32) + lane; each two rows have a number
// of it, the even row its 15 lowest bits and the odd row its 15 highest.
inline constexpr size_t kRandomRows = 32;
inline constexpr uint32_t kRandomFactor = 0x915f77f5u;
inline constexpr uint32_t kRandomSummand = 0x6a09e667u;
inline uint32_t NextRandom(uint32_t x) { return x * kRandomFactor + kRandomSummand; }

}  // namespace terse::kernels

#endif  // TERSE_COMPRESSORS_KERNELS_RANDOM_H_
