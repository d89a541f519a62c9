// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_TESTS_MATRIX_SHAPE_H_
#define TERSE_TESTS_MATRIX_SHAPE_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace terse::testing {

// n elements as a matrix that is as square as n allows, with no more rows than columns.
inline std::vector<int64_t> MatrixShape(size_t n) {
  auto rows = static_cast<size_t>(std::sqrt(static_cast<double>(n)));
  while (rows > 1 && n % rows != 0) --rows;
  return {static_cast<int64_t>(rows), static_cast<int64_t>(rows == 0 ? 0 : n / rows)};
}

}  // namespace terse::testing

#endif  // TERSE_TESTS_MATRIX_SHAPE_H_
