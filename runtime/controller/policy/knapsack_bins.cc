// SPDX-License-Identifier: Apache-2.0
//
// L-GreCo's dynamic program (Algorithm 1 of the paper), with what its code lacks: a layer that is infeasible
// is seen, the first layer is filled to the last bin, an error above the budget is no candidate, and one of
// zero takes no bin.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "runtime/controller/policy/knapsack_parts.h"

namespace terse::policy {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// Bins that an error takes, rounded up; more than there are where it does not fit.
size_t BinsOf(double error, double budget, int bins) {
  if (error == 0) return 0;
  const auto most = static_cast<size_t>(bins);
  if (!(error <= budget)) return most + 1;
  const double exact = error / budget * bins;
  auto taken = static_cast<size_t>(std::max(1.0, std::ceil(exact)));
  // The quotient may have been rounded down to a whole number.
  if (static_cast<double>(taken) * budget < error * bins) ++taken;
  return taken;
}

// Where `size` more than `before` is less than `after`, it becomes that, by the candidate. Indices are as
// wide as the numbers beside them, so that both go through vector registers; sums and comparisons are the
// same in all of them.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default")))
#endif
void Relax(const double* __restrict before, double size, int64_t candidate, size_t n, double* __restrict after,
           int64_t* __restrict who) {
  for (size_t j = 0; j < n; ++j) {
    const double finish = before[j] + size;
    const bool better = finish < after[j];
    after[j] = better ? finish : after[j];
    who[j] = better ? candidate : who[j];
  }
}

}  // namespace

std::optional<Positions> SolveInBins(const Parts& parts, int bins) {
  const size_t n = parts.layers.size();
  if (!std::isfinite(parts.budget)) return Positions(n, 0);
  const size_t width = static_cast<size_t>(bins) + 1;
  // least[j]: the earliest finish of the layers so far with j bins at most.
  std::vector<double> least(width, 0.0);
  std::vector<double> next(width);
  std::vector<int64_t> who(width);
  std::vector<uint16_t> chosen(n * width);
  for (size_t l = 0; l < n; ++l) {
    const Layer& layer = parts.layers[l];
    const double ready = parts.ready[l];
    uint16_t* const choice = chosen.data() + l * width;
    std::fill(next.begin(), next.end(), kNever);
    for (double& finish : least) finish = std::max(finish, ready);
    for (size_t k = 0; k < layer.size(); ++k) {
      const size_t taken = BinsOf(layer[k].error, parts.budget, bins);
      if (taken >= width) continue;
      Relax(least.data(), layer[k].size, static_cast<int64_t>(k), width - taken, next.data() + taken,
            who.data() + taken);
    }
    std::copy(who.begin(), who.end(), choice);
    std::swap(least, next);
  }
  if (least[width - 1] == kNever) return std::nullopt;
  // Of the budgets that do as well, the least.
  size_t j = width - 1;
  while (j > 0 && least[j - 1] == least[width - 1]) --j;
  Positions positions(n);
  for (size_t l = n; l-- > 0;) {
    positions[l] = chosen[l * width + j];
    j -= BinsOf(parts.layers[l][positions[l]].error, parts.budget, bins);
  }
  return positions;
}

}  // namespace terse::policy
