// SPDX-License-Identifier: Apache-2.0
//
// Between the job's element types and the engine's fp32.
#ifndef TERSE_RUNTIME_ENGINE_CONVERT_H_
#define TERSE_RUNTIME_ENGINE_CONVERT_H_

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "proto/wire/types.h"

namespace terse::engine {

// to[i] = fp32(from[i] * factor); the product is taken in fp32 (fp64 for kFloat64).
void ToFloat(wire::DType dtype, const void* from, double factor, absl::Span<float> to);

// What an element's type could not hold.
struct Excess {
  size_t at = 0;
  float value = 0;
};

// to[i] = dtype(from[i] * factor), rounded to nearest even; NaN and Inf pass as such. What kFloat16 cannot
// hold becomes +-65504 and the rest is appended to `excess` (in units of from); where that is null, Inf, as
// any fp16 all-reduce would give, and a loss scaler expects.
void FromFloat(wire::DType dtype, absl::Span<const float> from, double factor, void* to,
               std::vector<Excess>* excess);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_CONVERT_H_
