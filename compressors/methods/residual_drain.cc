// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/residual_drain.h"

#include <algorithm>
#include <utility>

#include "compressors/kernels/vector.h"

namespace terse {

absl::Span<const float> ResidualDrain::Add(absl::Span<const float> vector, absl::Span<const float> residual,
                                           absl::Span<float> scratch) {
  share_ = 0.0;
  if (residual.empty()) return vector;
  const double waiting = kernels::FiniteNorm(residual);
  // Nothing to add, which still empties a residual of zeros; or a step that will be skipped.
  if (waiting == 0.0) share_ = 1.0;
  if (waiting == 0.0 || !kernels::AllFinite(vector)) return vector;
  share_ = std::min(1.0, std::max(kernels::FiniteNorm(vector) / waiting, kSlowestShare));
  const auto share = static_cast<float>(share_);
  const float* x = vector.data();
  const float* r = residual.data();
  float* to = scratch.data();
  for (size_t i = 0; i < vector.size(); ++i) to[i] = x[i] + share * r[i];
  return scratch.first(vector.size());
}

void ResidualDrain::Resolve(double applied, FloatVector* residual) {
  const double gone = std::exchange(share_, 0.0) * applied;
  if (gone >= 1.0) {
    FloatVector().swap(*residual);
  } else if (gone > 0.0) {
    const auto kept = static_cast<float>(1.0 - gone);
    for (float& r : *residual) r *= kept;
  }
}

}  // namespace terse
