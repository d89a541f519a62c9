// SPDX-License-Identifier: Apache-2.0
//
// The parts of error_table.h; nobody else's.
#ifndef TERSE_COMPRESSORS_ERRORS_PARTS_H_
#define TERSE_COMPRESSORS_ERRORS_PARTS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "proto/wire/matrix_view.h"
#include "proto/wire/plan.h"

namespace terse::errors {

inline double Finite(float x) { return std::isfinite(x) ? static_cast<double>(x) : 0.0; }

// Whole blocks of `block` elements that are spread evenly over n, about `sample` elements of them; all where
// there are not many more. Calls visit(begin, end) for each, and returns n / elements visited.
template <typename Visit>
double VisitSample(size_t n, size_t block, size_t sample, Visit visit) {
  const size_t blocks = (n + block - 1) / block;
  const size_t every = std::max<size_t>(1, n / std::max<size_t>(sample, 1));
  size_t visited = 0;
  for (size_t b = 0; b < blocks; b += every) {
    const size_t begin = b * block;
    const size_t end = std::min(n, begin + block);
    visit(begin, end);
    visited += end - begin;
  }
  return visited == 0 ? 1.0 : static_cast<double>(n) / static_cast<double>(visited);
}

std::vector<double> TopKErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c);
std::vector<double> QuantizeErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c);
std::vector<double> OneBitErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c);
// The matrix is row after row.
std::vector<double> LowRankErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c,
                                  const wire::MatrixView& view);

}  // namespace terse::errors

#endif  // TERSE_COMPRESSORS_ERRORS_PARTS_H_
