// SPDX-License-Identifier: Apache-2.0
//
// Empties the residual of a tensor that goes dense, over several steps. A residual can be a hundred times
// the gradient (reference: convergence.md), and sending all of it at once costs accuracy: a step takes as
// much of it as the vector that is sent anyway is long, or kSlowestShare of it where that is more.
//
//   a = min(1, max(|x| / |r|, kSlowestShare))      send x + a r      applied: r <- (1 - a) r
//
// Each rank drains at its own pace: the sum over ranks is linear. One owner, not thread-safe.
#ifndef TERSE_COMPRESSORS_METHODS_RESIDUAL_DRAIN_H_
#define TERSE_COMPRESSORS_METHODS_RESIDUAL_DRAIN_H_

#include "absl/types/span.h"
#include "compressors/memory/large_vector.h"

namespace terse {

class ResidualDrain {
 public:
  // With gradients of zero the residual still halves every 44 steps.
  static constexpr double kSlowestShare = 1.0 / 64.0;

  // What to send instead of `vector`: `vector` itself when nothing waits in `residual` or when `vector` is
  // not finite, else `scratch` (n elements, may be where `vector` is) after writing it.
  absl::Span<const float> Add(absl::Span<const float> vector, absl::Span<const float> residual,
                              absl::Span<float> scratch);

  // The dense step has ended: takes out of `residual` what was applied, and frees it once it is empty.
  void Resolve(double applied, FloatVector* residual);

 private:
  double share_ = 0.0;  // of the residual that the step under way sent
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_RESIDUAL_DRAIN_H_
