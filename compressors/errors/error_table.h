// SPDX-License-Identifier: Apache-2.0
//
// What settings of a codec would leave behind of a vector, without encoding it for each: the squared error
// |c - decoded|^2 that L-GreCo's error table is made of.
//
//   topk       a histogram of log-magnitudes: what is below the k-th largest element
//   quantize   the distances to the levels that the codec would choose, or their mean over random
//              roundings; all numbers of bits in one pass over the blocks
//   powersgd   the squares of the greatest singular values: by a Gram matrix where the matrix is narrow, else
//              by three power iterations (Rayleigh-Ritz)
//   onebit     in closed form from sums of magnitudes and squares
//   fp16, bf16 element by element;  none: 0
//
// Estimates, within some percent of what encoding gives (tests/compressors/error_table_test.cc says how
// near). Vectors that are longer than kErrorSample are looked at in parts, spread over the whole; matrices
// are not. Elements that are not finite count as 0.
//
// Allocates, unlike codecs: it belongs to statistics, which come once in many steps. Pure; any thread.
#ifndef TERSE_COMPRESSORS_ERRORS_ERROR_TABLE_H_
#define TERSE_COMPRESSORS_ERRORS_ERROR_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/plan.h"
#include "proto/wire/types.h"

namespace terse {

// Elements of a vector that are looked at, about.
inline constexpr size_t kErrorSample = size_t{1} << 17;

// By setting. `shape` is the tensor's, of c.size() elements. INVALID_ARGUMENT: a setting that the codec
// cannot work with, or a shape of another number of elements.
absl::StatusOr<std::vector<double>> SquaredErrors(wire::Codec codec,
                                                  absl::Span<const wire::CodecParams> settings,
                                                  absl::Span<const float> c, absl::Span<const int64_t> shape);

}  // namespace terse

#endif  // TERSE_COMPRESSORS_ERRORS_ERROR_TABLE_H_
