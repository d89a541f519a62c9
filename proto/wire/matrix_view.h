// SPDX-License-Identifier: Apache-2.0
//
// The matrix that low-rank compression sees in a tensor: dimension 0 by all the others, as published. A
// vector is a matrix of one column. Policies ask whether its factors are smaller; the codec cuts by it.
#ifndef TERSE_PROTO_WIRE_MATRIX_VIEW_H_
#define TERSE_PROTO_WIRE_MATRIX_VIEW_H_

#include <algorithm>
#include <cstdint>

#include "absl/types/span.h"

namespace terse::wire {

struct MatrixView {
  uint64_t rows = 1;
  uint64_t columns = 1;

  // A matrix has no more independent columns than its shorter side.
  uint64_t RankWithin(uint64_t rank) const { return std::min({rank, rows, columns}); }
  // Floats of both factors at that rank.
  uint64_t FactorFloats(uint64_t rank) const { return RankWithin(rank) * (rows + columns); }
};

inline MatrixView ViewAsMatrix(absl::Span<const int64_t> shape) {
  MatrixView view;
  if (!shape.empty()) view.rows = static_cast<uint64_t>(shape[0]);
  for (size_t i = 1; i < shape.size(); ++i) view.columns *= static_cast<uint64_t>(shape[i]);
  return view;
}

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_MATRIX_VIEW_H_
