// SPDX-License-Identifier: Apache-2.0
//
// Between the job's element types and the engine's fp32.
#ifndef TERSE_RUNTIME_ENGINE_CONVERT_H_
#define TERSE_RUNTIME_ENGINE_CONVERT_H_

#include "absl/types/span.h"
#include "proto/wire/types.h"

namespace terse::engine {

// to[i] = fp32(from[i] * factor); the product is taken in fp32 (fp64 for kFloat64).
void ToFloat(wire::DType dtype, const void* from, double factor, absl::Span<float> to);

// to[i] = dtype(from[i] * factor), rounded to nearest even. kFloat16 saturates finite values to +-65504;
// where that cuts something off and `residual` is not empty, the rest is added there (in units of from).
// NaN and Inf pass as such.
void FromFloat(wire::DType dtype, absl::Span<const float> from, double factor, void* to,
               absl::Span<float> residual);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_CONVERT_H_
