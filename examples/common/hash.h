// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_EXAMPLES_COMMON_HASH_H_
#define TERSE_EXAMPLES_COMMON_HASH_H_

#include <cstddef>
#include <cstdint>

namespace terse::examples {

inline constexpr uint64_t kHashSeed = 0xcbf29ce484222325;

// FNV-1a, 64 bit. Ranks compare it to see that their parameters are equal bit by bit; pass the result as
// `hash` to go on with further bytes.
inline uint64_t Fnv1a(const void* data, size_t size, uint64_t hash = kHashSeed) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_HASH_H_
