// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/checksum.h"

#include <array>
#include <bit>
#include <cstddef>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace terse::wire {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // 0x1edc6f41 with its bits reversed

// kTables[k][b]: what byte b, followed by k zero bytes, does to the register ("slicing by 8").
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t b = 0; b < 256; ++b) {
      const uint32_t before = tables[k - 1][b];
      tables[k][b] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

#if defined(__x86_64__)
// The instruction takes three cycles to answer but can start every cycle, so long inputs go through three
// registers at once, each over a stretch of this many bytes.
constexpr size_t kStretch = 1024;

// What kStretch zero bytes do to the register: a linear map, tabulated for each of its four bytes.
using Shift = std::array<std::array<uint32_t, 256>, 4>;

constexpr Shift MakeShift() {
  std::array<uint32_t, 32> images{};
  for (size_t bit = 0; bit < images.size(); ++bit) {
    uint32_t crc = uint32_t{1} << bit;
    for (size_t i = 0; i < kStretch; ++i) crc = (crc >> 8) ^ kTables[0][crc & 0xff];
    images[bit] = crc;
  }
  Shift shift{};
  for (size_t byte = 0; byte < shift.size(); ++byte) {
    for (size_t value = 1; value < 256; ++value) {
      const size_t low = static_cast<size_t>(std::countr_zero(value));
      shift[byte][value] = shift[byte][value & (value - 1)] ^ images[8 * byte + low];
    }
  }
  return shift;
}

constexpr Shift kShift = MakeShift();

uint32_t PastStretch(uint32_t crc) {
  return kShift[0][crc & 0xff] ^ kShift[1][(crc >> 8) & 0xff] ^ kShift[2][(crc >> 16) & 0xff] ^
         kShift[3][crc >> 24];
}

__attribute__((target("sse4.2"))) uint32_t Sse42(Bytes bytes, uint32_t crc) {
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  uint64_t state = ~crc;
  for (; left >= 3 * kStretch; left -= 3 * kStretch, at += 3 * kStretch) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kStretch; i += 8) {
      state = _mm_crc32_u64(state, Load<uint64_t>(at + i));
      second = _mm_crc32_u64(second, Load<uint64_t>(at + kStretch + i));
      third = _mm_crc32_u64(third, Load<uint64_t>(at + 2 * kStretch + i));
    }
    const uint32_t two = PastStretch(static_cast<uint32_t>(state)) ^ static_cast<uint32_t>(second);
    state = PastStretch(two) ^ static_cast<uint32_t>(third);
  }
  for (; left >= 8; left -= 8, at += 8) state = _mm_crc32_u64(state, Load<uint64_t>(at));
  auto narrow = static_cast<uint32_t>(state);
  for (; left > 0; --left, ++at) narrow = _mm_crc32_u8(narrow, std::to_integer<uint8_t>(*at));
  return ~narrow;
}
#endif

}  // namespace

namespace checksum_internal {

uint32_t Crc32cPortable(Bytes bytes, uint32_t crc) {
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  crc = ~crc;
  for (; left >= 8; left -= 8, at += 8) {
    const uint64_t word = Load<uint64_t>(at) ^ crc;
    crc = 0;
    for (size_t i = 0; i < 8; ++i) crc ^= kTables[7 - i][(word >> (8 * i)) & 0xff];
  }
  for (; left > 0; --left, ++at) crc = (crc >> 8) ^ kTables[0][(crc ^ std::to_integer<uint32_t>(*at)) & 0xff];
  return ~crc;
}

bool HasCrc32cInstruction() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("sse4.2");
  return has;
#else
  return false;
#endif
}

}  // namespace checksum_internal

uint32_t Crc32c(Bytes bytes, uint32_t crc) {
#if defined(__x86_64__)
  if (checksum_internal::HasCrc32cInstruction()) return Sse42(bytes, crc);
#endif
  return checksum_internal::Crc32cPortable(bytes, crc);
}

uint64_t Fnv1a(Bytes bytes, uint64_t hash) {
  for (const std::byte byte : bytes) hash = (hash ^ std::to_integer<uint64_t>(byte)) * 0x100000001b3u;
  return hash;
}

}  // namespace terse::wire
