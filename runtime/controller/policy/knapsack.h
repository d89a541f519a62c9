// SPDX-License-Identifier: Apache-2.0
//
// The problem under L-GreCo (Markov, Alimohammadi, Frantar and Alistarh, MLSys 2024): for each layer one
// candidate, so that errors add up to a budget at most and sizes to as little as can be. A multiple-choice
// knapsack. Errors may be any number that is added up (a norm, or its square), sizes too (bytes, seconds).
//
// With `ready`, what is made least is the time at which the last layer is done, where a layer's exchange
// starts when its gradient is ready and the one before it is done: f = max(f, ready[l]) + size[l][k], layer
// by layer. Layers that hide behind the backward pass then cost nothing.
//
//   under 64 candidates in all   exact: halves are enumerated and met in the middle
//   up to some hundred layers    the published dynamic program over bins of error, finer where that is cheap:
//                                at most the optimum of a budget less one bin a layer
//   more                         the convex hulls of the layers, greedily (the Lagrangian's optimum but for
//   one
//                                layer), and the program over the layers about the break
//
// Always the best of what was found, and with it the Lagrangian's lower bound, which holds for every choice:
// the gap between the two is certain. Deterministic: the same problem gives the same answer, everywhere.
// Pure functions; any thread.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_KNAPSACK_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_KNAPSACK_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace terse::policy {

struct Knapsack {
  // By layer and candidate; finite and not negative. Layers may have different numbers of candidates.
  std::vector<std::vector<double>> error = {};
  std::vector<std::vector<double>> size = {};
  double budget = 0;               // of the errors' sum
  std::vector<double> ready = {};  // empty, or by layer, in the order of exchange
  // Empty, or a choice to fall back on, such as the uniform setting that the budget was taken from: the
  // answer is never worse than it, if it is within the budget.
  std::vector<uint32_t> fallback = {};
};

// How an answer was found.
enum class KnapsackWay : uint8_t { kExact, kBins, kHull, kFallback };
std::string_view Name(KnapsackWay way);

struct KnapsackAnswer {
  std::vector<uint32_t> choice;  // by layer: the candidate
  double size = 0;               // sums in the order of layers
  double error = 0;              // at most the budget
  double finish = 0;             // as above; without `ready` that is the size
  double lower_bound = 0;        // of what is made least: finish with `ready`, else size
  KnapsackWay way = KnapsackWay::kExact;

  // What the answer may be above the optimum at most, as a part of it; 0 where both are 0.
  double Gap(bool with_ready) const;
};

// InvalidArgument: sizes that do not fit, a number that is NaN, infinite or negative. OutOfRange: no choice
// is within the budget. Of choices that are equally good, one of less error.
absl::StatusOr<KnapsackAnswer> Solve(const Knapsack& problem);

// The published program alone, with so many bins: errors rounded up to whole bins, an error of zero to none.
// The fallback as it is.
absl::StatusOr<KnapsackAnswer> SolveByBins(const Knapsack& problem, int bins = 10000);

// The Lagrangian's bound alone, in a fraction of the time of an answer: no choice within the budget makes
// less of what is made least. Errors as of Solve.
absl::StatusOr<double> LowerBound(const Knapsack& problem);

// What a choice comes to; its lower bound is not set. The choice has a valid candidate for each layer.
KnapsackAnswer Evaluate(const Knapsack& problem, const std::vector<uint32_t>& choice);

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_KNAPSACK_H_
