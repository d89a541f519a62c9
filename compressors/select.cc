// SPDX-License-Identifier: Apache-2.0
#include "compressors/select.h"

#include <algorithm>

#include "compressors/kernels/floats.h"

namespace terse {

Selection SelectLargest(absl::Span<const float> values, size_t k, absl::Span<uint32_t> histogram) {
  // The digits of a magnitude, most significant first.
  struct Digit {
    uint32_t shift;
    uint32_t bits;
  };
  static constexpr Digit kDigits[] = {{20, 11}, {10, 10}, {0, 10}};

  uint32_t* const counts = histogram.data();
  uint32_t prefix = 0;  // the digits of the k-th largest found so far
  size_t rank = k;      // its rank among the elements with that prefix
  for (const Digit digit : kDigits) {
    const uint32_t bins = 1u << digit.bits;
    std::fill_n(counts, bins, 0u);
    for (const float value : values) {
      uint32_t magnitude = kernels::Magnitude(value);
      if (magnitude >= kernels::kInfinityBits) magnitude = 0;
      // Above the first digit there is nothing, so all elements have its prefix, 0.
      const uint32_t here = magnitude >> digit.shift;
      if (here >> digit.bits == prefix) ++counts[here & (bins - 1)];
    }
    uint32_t bin = bins - 1;
    while (counts[bin] < rank) rank -= counts[bin--];
    prefix = prefix << digit.bits | bin;
  }
  if (prefix == 0) return {0, 0, k - rank};
  return {prefix, rank, k};
}

}  // namespace terse
