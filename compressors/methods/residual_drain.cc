// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/residual_drain.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>

namespace terse {
namespace {

// In sums of their own, which a processor adds up side by side; the order is the same on every machine.
double SquaredNorm(absl::Span<const float> vector) {
  constexpr size_t kSums = 16;
  std::array<double, kSums> sums = {};
  size_t i = 0;
  for (; i + kSums <= vector.size(); i += kSums) {
    for (size_t lane = 0; lane < kSums; ++lane) {
      const double x{vector[i + lane]};
      sums[lane] += x * x;
    }
  }
  for (; i < vector.size(); ++i) sums[i % kSums] += double{vector[i]} * double{vector[i]};
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

absl::Span<const float> ResidualDrain::Add(absl::Span<const float> vector, absl::Span<const float> residual,
                                           absl::Span<float> scratch) {
  share_ = 0.0;
  if (residual.empty()) return vector;
  const double waiting = SquaredNorm(residual);
  const double sent = SquaredNorm(vector);
  // Nothing to add, which still empties a residual of zeros; or a step that will be skipped.
  if (waiting == 0.0) share_ = 1.0;
  if (waiting == 0.0 || !std::isfinite(sent)) return vector;
  share_ = std::min(1.0, std::max(std::sqrt(sent / waiting), kSlowestShare));
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
