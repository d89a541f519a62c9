// SPDX-License-Identifier: Apache-2.0
//
// From the counter of compressor.h to the 64-bit key of a stream of random numbers
// (docs/wire_format_payloads.md).
#ifndef TERSE_COMPRESSORS_RANDOM_KEY_H_
#define TERSE_COMPRESSORS_RANDOM_KEY_H_

#include <cstdint>

#include "compressors/compressor.h"

namespace terse {

// Mixes one more word into a key (the finalizer of splitmix64).
inline uint64_t Mix(uint64_t key, uint64_t word) {
  uint64_t x = (key ^ word) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

inline uint64_t StreamKey(const RandomKey& random) {
  uint64_t key = Mix(random.seed, 0);
  key = Mix(key, random.step);
  key = Mix(key, uint64_t{random.rank} << 32 | random.tensor);
  return Mix(key, random.stage);
}

}  // namespace terse

#endif  // TERSE_COMPRESSORS_RANDOM_KEY_H_
