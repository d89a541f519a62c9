// SPDX-License-Identifier: Apache-2.0
//
// A set of positions below n, a bit each: the union of ranks' selections, with the place of each position in
// it. Costs n / 64 words and one access for each position. Owned and used by one thread.
#ifndef TERSE_RUNTIME_ENGINE_POSITION_SET_H_
#define TERSE_RUNTIME_ENGINE_POSITION_SET_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace terse::engine {

class PositionSet {
 public:
  // Empty, for positions below n.
  void Reset(size_t n) { words_.assign((n + kBits - 1) / kBits, 0); }

  void Insert(absl::Span<const uint32_t> positions) {
    uint64_t* const words = words_.data();
    for (const uint32_t position : positions) words[position / kBits] |= uint64_t{1} << position % kBits;
  }

  // Numbers the positions in ascending order; returns how many there are.
  size_t Count() {
    before_.resize(words_.size());
    uint32_t count = 0;
    for (size_t w = 0; w < words_.size(); ++w) {
      before_[w] = count;
      count += static_cast<uint32_t>(std::popcount(words_[w]));
    }
    return count;
  }

  // The number of a position that is in the set. Since the last Count nothing was inserted.
  size_t IndexOf(uint32_t position) const {
    const uint64_t below = words_.data()[position / kBits] & ((uint64_t{1} << position % kBits) - 1);
    return before_.data()[position / kBits] + static_cast<size_t>(std::popcount(below));
  }

  // All positions, ascending, to to[0], to[1], ...; returns how many there are.
  size_t CopyTo(uint32_t* to) const {
    const uint32_t* const first = to;
    for (size_t w = 0; w < words_.size(); ++w) {
      for (uint64_t rest = words_[w]; rest != 0; rest &= rest - 1) {
        *to++ = static_cast<uint32_t>(w * kBits + static_cast<size_t>(std::countr_zero(rest)));
      }
    }
    return static_cast<size_t>(to - first);
  }

 private:
  static constexpr size_t kBits = 64;
  std::vector<uint64_t> words_;
  std::vector<uint32_t> before_;  // positions in the words before
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_POSITION_SET_H_
