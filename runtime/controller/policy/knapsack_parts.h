// SPDX-License-Identifier: Apache-2.0
//
// The parts of knapsack.h's Solve; nobody else's. All work on layers without dominated candidates, and give
// positions in these.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_KNAPSACK_PARTS_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_KNAPSACK_PARTS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace terse::policy {

// Not "Candidate", which is a policy's (candidates.h): one namespace has one type of a name.
struct LayerOption {
  double error = 0;
  double size = 0;
  uint32_t index = 0;  // in the problem
};

// From position to position the error falls and the size grows, both strictly.
using Layer = std::vector<LayerOption>;
using Positions = std::vector<uint32_t>;

// `ready` is by layer; all zero where the problem has none, which makes the finish the sum of sizes.
struct Parts {
  std::vector<Layer> layers;
  std::vector<double> ready;
  double budget = 0;
};

double ErrorOf(const Parts& parts, const Positions& positions);
double FinishOf(const Parts& parts, const Positions& positions);

// All choices of two halves, met in the middle. Null: none is within the budget. Only for so few candidates
// that there are at most some 10^10 choices.
std::optional<Positions> SolveExactly(const Parts& parts);

// Null: none is within the budget when errors are rounded up to whole bins.
std::optional<Positions> SolveInBins(const Parts& parts, int bins);

// A choice within the budget, which there must be, and the bound of the relaxed problem, in which a layer may
// have a mixture of two candidates.
struct HullAnswer {
  Positions positions;
  double lower_bound = 0;
};
HullAnswer SolveOnHull(const Parts& parts);  // `ready` all zero
// Its bound alone, without the choice: that runs the program in bins once more.
double BoundOnHull(const Parts& parts);
HullAnswer SolveInTime(const Parts& parts);  // any

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_KNAPSACK_PARTS_H_
