// SPDX-License-Identifier: Apache-2.0
//
// Golomb-Rice coding of ascending positions. A position is coded as its gap to the one before (the first:
// to -1), that is the number of positions skipped; a gap g with parameter p as g >> p zeros, a one, and
// the low p bits of g, everything least significant bit first, in words of 32 bits filled up with zeros.
//
// Among `count` positions below n the gaps sum to at most n - count, so the zeros are bounded by
// (n - count) >> p: the worst case is known exactly. Random positions cost about 0.03 bit each more than
// their entropy.
#ifndef TERSE_COMPRESSORS_RICE_H_
#define TERSE_COMPRESSORS_RICE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"
#include "proto/wire/bytes.h"

namespace terse {

inline constexpr uint32_t kMaxRiceParameter = 31;

// Most bytes that `count` positions below n need (a multiple of 4), by an encoder that chooses well.
// Does not decrease with count.
size_t RiceMaxBytes(size_t n, size_t count);

// The code of one list of positions: the parameter that makes it shortest, and its length.
struct RicePlan {
  uint32_t parameter = 0;
  size_t bytes = 0;  // a multiple of 4, at most RiceMaxBytes
};
RicePlan PlanRice(size_t n, absl::Span<const uint32_t> positions);

// Writes plan.bytes bytes.
void EncodeRice(const RicePlan& plan, absl::Span<const uint32_t> positions, std::byte* out);

// Takes codes out of bytes of unknown origin, a 64-bit window at a time. Past the end it reads zeros and
// fails.
class RiceReader {
 public:
  RiceReader() = default;
  RiceReader(wire::Bytes bytes, uint32_t parameter)
      : bytes_(bytes), bits_(bytes.size() * 8), parameter_(parameter) {}

  // The next gap; false when the bytes end before it does.
  bool Next(uint64_t* gap) {
    uint64_t zeros = 0;
    uint64_t window = Window();
    while (window == 0) {
      zeros += kWindowBits;
      at_ += kWindowBits;
      if (at_ >= bits_) return false;
      window = Window();
    }
    const uint32_t run = static_cast<uint32_t>(std::countr_zero(window));
    zeros += run;
    at_ += run + 1;
    const uint64_t low = Window() & ((uint64_t{1} << parameter_) - 1);
    at_ += parameter_;
    *gap = zeros << parameter_ | low;
    return at_ <= bits_;
  }

  // True when nothing but the zeros that fill the last word is left.
  bool AtEnd() const { return at_ <= bits_ && bits_ - at_ < 32 && Window() == 0; }

 private:
  static constexpr uint32_t kWindowBits = 56;

  // The next kWindowBits bits.
  uint64_t Window() const {
    const size_t byte = at_ / 8;
    uint64_t window = 0;
    if (byte + sizeof(window) <= bytes_.size()) {
      std::memcpy(&window, bytes_.data() + byte, sizeof(window));
    } else if (byte < bytes_.size()) {
      std::memcpy(&window, bytes_.data() + byte, bytes_.size() - byte);
    }
    return (window >> (at_ % 8)) & ((uint64_t{1} << kWindowBits) - 1);
  }

  wire::Bytes bytes_;
  uint64_t bits_ = 0;
  uint64_t at_ = 0;
  uint32_t parameter_ = 0;
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_RICE_H_
