// SPDX-License-Identifier: Apache-2.0
//
// Which elements of a tensor take part in its exchanges. The engine packs them together before it does
// anything else with a gradient, so that method, codec and wire know of no others: they are not sent, have
// no memory and enter no scale.
#ifndef TERSE_RUNTIME_ENGINE_MASK_H_
#define TERSE_RUNTIME_ENGINE_MASK_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace terse::engine {

class Mask {
 public:
  Mask() = default;  // every element takes part
  // flags[i] != 0: element i takes part.
  explicit Mask(absl::Span<const uint8_t> flags);

  bool all() const { return hash_ == 0; }
  size_t kept() const { return kept_; }  // of a mask that is not all()
  // Equal for equal sets; never 0 for a mask that leaves something out.
  uint64_t hash() const { return hash_; }

  // to[0, kept) <- the elements of `from` that take part, in order. to == from is allowed.
  void Pack(size_t element_bytes, const void* from, void* to) const;
  // The other way, over n elements, with zero bytes in the places left out. No overlap.
  void Unpack(size_t element_bytes, const void* from, size_t n, void* to) const;

 private:
  struct Run {
    size_t begin, end;
  };
  std::vector<Run> runs_;  // of elements that take part: masks leave out rows, so these are few
  size_t kept_ = 0;
  uint64_t hash_ = 0;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_MASK_H_
