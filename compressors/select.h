// SPDX-License-Identifier: Apache-2.0
//
// Exact selection of the k largest magnitudes without sorting: three passes of a radix histogram over the
// 31 bits of |x| find the k-th largest and how many of its equals belong to the k.
#ifndef TERSE_COMPRESSORS_SELECT_H_
#define TERSE_COMPRESSORS_SELECT_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace terse {

inline constexpr size_t kHistogramBins = 2048;

// What belongs to the k largest: every magnitude above `magnitude` (as the bits of a float), and the
// first `ties` of those equal to it. `count` is how many that are. Zeros never belong; when fewer than k
// elements are not zero, `magnitude` and `ties` are 0.
struct Selection {
  uint32_t magnitude = 0;
  size_t ties = 0;
  size_t count = 0;

  // Whether the next element in order belongs. Counts ties down, so ask for each element once.
  bool Take(uint32_t element_magnitude) {
    if (element_magnitude > magnitude) return true;
    if (element_magnitude < magnitude || ties == 0) return false;
    --ties;
    return true;
  }
};

// 1 <= k <= values.size() < 2^32. NaN and Inf count as 0. `histogram` has kHistogramBins elements, any
// content.
Selection SelectLargest(absl::Span<const float> values, size_t k, absl::Span<uint32_t> histogram);

}  // namespace terse

#endif  // TERSE_COMPRESSORS_SELECT_H_
