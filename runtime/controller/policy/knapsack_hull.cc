// SPDX-License-Identifier: Apache-2.0
//
// The Lagrangian's way: min over choices of size + lambda error is taken layer by layer on its lower convex
// hull, so the choices of all lambda are the hulls' steps in the order of what error they take away for a
// byte. The last step before the budget holds, taken in part, is the dual's optimum and the relaxed
// problem's.
#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "runtime/controller/policy/knapsack_parts.h"

namespace terse::policy {
namespace {

// Of what is left over after the greedy choice, some layers go through the program once more.
constexpr size_t kCore = 64;
constexpr int kCoreBins = 10000;
// Candidates that are made larger where error is left over.
constexpr int kMostFills = 64;

// From one corner of a layer's hull to the next.
struct Step {
  uint32_t layer = 0;
  uint32_t from = 0;  // positions
  uint32_t to = 0;
  double error = 0;  // that it takes away
  double size = 0;   // that it costs
  double worth = 0;  // error / size
};

void AddSteps(const Layer& layer, uint32_t number, std::vector<Step>* steps) {
  std::vector<uint32_t> corners = {0};
  const auto step = [&](uint32_t from, uint32_t to) {
    const double error = layer[from].error - layer[to].error;
    const double size = layer[to].size - layer[from].size;
    return Step{number, from, to, error, size, error / size};
  };
  for (uint32_t k = 1; k < layer.size(); ++k) {
    while (corners.size() > 1 &&
           step(corners[corners.size() - 2], corners.back()).worth <= step(corners.back(), k).worth) {
      corners.pop_back();
    }
    corners.push_back(k);
  }
  for (size_t i = 1; i < corners.size(); ++i) steps->push_back(step(corners[i - 1], corners[i]));
}

// The best first. A layer's own are so in their order, and stay so where two are equal.
std::vector<Step> StepsOf(const Parts& parts) {
  std::vector<Step> steps;
  for (uint32_t l = 0; l < parts.layers.size(); ++l) AddSteps(parts.layers[l], l, &steps);
  std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    return std::tie(b.worth, a.layer, a.from) < std::tie(a.worth, b.layer, b.from);
  });
  return steps;
}

// Takes the candidates that save most for the error that is left over, one after the other.
void Fill(const Parts& parts, Positions* positions) {
  for (int i = 0; i < kMostFills; ++i) {
    const double spare = parts.budget - ErrorOf(parts, *positions);
    double most = 0;
    size_t where = 0;
    uint32_t what = 0;
    for (size_t l = 0; l < positions->size(); ++l) {
      const Layer& layer = parts.layers[l];
      const LayerOption& now = layer[(*positions)[l]];
      // Sizes grow with positions: the first that fits saves most.
      for (uint32_t k = 0; k < (*positions)[l]; ++k) {
        if (now.size - layer[k].size <= most) break;
        if (layer[k].error - now.error <= spare) {
          most = now.size - layer[k].size;
          where = l;
          what = k;
          break;
        }
      }
    }
    if (most <= 0) return;
    const uint32_t before = std::exchange((*positions)[where], what);
    if (ErrorOf(parts, *positions) > parts.budget) {
      (*positions)[where] = before;
      return;
    }
  }
}

// The layers whose steps are about the break, anew among themselves.
void RefineCore(const Parts& parts, const std::vector<Step>& steps, size_t taken, Positions* positions) {
  std::vector<uint32_t> core;
  std::vector<bool> in(parts.layers.size(), false);
  const auto add = [&](size_t step) {
    const uint32_t layer = steps[step].layer;
    if (!in[layer]) core.push_back(layer);
    in[layer] = true;
  };
  for (size_t away = 0; core.size() < kCore && (away < taken || taken + away < steps.size()); ++away) {
    if (taken + away < steps.size()) add(taken + away);
    if (away < taken) add(taken - 1 - away);
  }
  std::sort(core.begin(), core.end());
  double others = 0;
  for (size_t l = 0; l < positions->size(); ++l) {
    if (!in[l]) others += parts.layers[l][(*positions)[l]].error;
  }
  Parts part;
  part.budget = parts.budget - others;
  if (part.budget < 0) return;
  for (const uint32_t l : core) part.layers.push_back(parts.layers[l]);
  part.ready.assign(core.size(), 0.0);
  const std::optional<Positions> refined = SolveInBins(part, kCoreBins);
  if (!refined.has_value()) return;
  Positions better = *positions;
  for (size_t i = 0; i < core.size(); ++i) better[core[i]] = (*refined)[i];
  Fill(parts, &better);
  if (ErrorOf(parts, better) > parts.budget) return;
  if (FinishOf(parts, better) < FinishOf(parts, *positions)) *positions = std::move(better);
}

// What is left of the time until `finish` for all layers from l on, for each l: taking time for layer i takes
// it from all l up to i. A tree of sums and least sums before, over the leaves.
class SpareTime {
 public:
  explicit SpareTime(const std::vector<double>& spare) {
    while (leaves_ < spare.size()) leaves_ *= 2;
    least_.assign(2 * leaves_, std::numeric_limits<double>::infinity());
    added_.assign(2 * leaves_, 0.0);
    std::copy(spare.begin(), spare.end(), least_.begin() + static_cast<ptrdiff_t>(leaves_));
    for (size_t i = leaves_; i-- > 1;) least_[i] = std::min(least_[2 * i], least_[2 * i + 1]);
  }

  // Of layers 0 to `layer`.
  double Least(size_t layer) const {
    // From the leaf up: a node's own sum is in its `least_`, those of its ancestors are not.
    size_t i = leaves_ + layer;
    double least = least_[i];
    for (; i > 1; i /= 2) {
      if (i % 2 == 1) least = std::min(least, least_[i - 1]);
      least += added_[i / 2];
    }
    return least;
  }

  void Take(size_t layer, double time) {
    size_t i = leaves_ + layer;
    least_[i] -= time;
    added_[i] -= time;
    for (; i > 1; i /= 2) {
      if (i % 2 == 1) {
        least_[i - 1] -= time;
        added_[i - 1] -= time;
      }
      least_[i / 2] = std::min(least_[i & ~size_t{1}], least_[i | 1]) + added_[i / 2];
    }
  }

 private:
  size_t leaves_ = 1;
  std::vector<double> least_;  // of a node's leaves, with what was added to the node and below it
  std::vector<double> added_;  // to all of a node's leaves
};

// The least error that is done by `finish`: all steps that there is time for, the best first. In part, too:
// then it is a bound, else a choice. Infinite where there is no such choice.
struct ByFinish {
  double error = std::numeric_limits<double>::infinity();
  Positions positions;
};

ByFinish LeastErrorBy(const Parts& parts, const std::vector<Step>& steps, double finish, bool in_part) {
  ByFinish result;
  const size_t n = parts.layers.size();
  std::vector<double> spare(n);
  double tail = 0;
  double error = 0;
  for (size_t l = n; l-- > 0;) {
    tail += parts.layers[l][0].size;
    spare[l] = finish - parts.ready[l] - tail;
    if (spare[l] < 0) return result;
    error += parts.layers[l][0].error;
  }
  SpareTime time(spare);
  Positions positions(n, 0);
  size_t closed = n;  // layers from here on have no time left
  for (const Step& step : steps) {
    if (step.layer >= closed || positions[step.layer] != step.from) continue;
    const double least = time.Least(step.layer);
    if (least >= step.size) {
      time.Take(step.layer, step.size);
      positions[step.layer] = step.to;
      error -= step.error;
    } else if (in_part) {
      time.Take(step.layer, std::max(least, 0.0));
      error -= step.error * (std::max(least, 0.0) / step.size);
      // The layer that ran out of time closes itself and all after it.
      closed = std::min<size_t>(closed, step.layer);
    }
  }
  result.error = std::max(error, 0.0);
  result.positions = std::move(positions);
  return result;
}

// The best steps until the budget holds; how many.
size_t TakeSteps(const Parts& parts, const std::vector<Step>& steps, HullAnswer* answer) {
  answer->positions.assign(parts.layers.size(), 0);
  double error = ErrorOf(parts, answer->positions);
  double size = FinishOf(parts, answer->positions);
  size_t taken = 0;
  answer->lower_bound = size;
  while (taken < steps.size() && error > parts.budget) {
    const Step& step = steps[taken++];
    answer->positions[step.layer] = step.to;
    answer->lower_bound = size + step.size * std::min(1.0, (error - parts.budget) / step.error);
    error -= step.error;
    size += step.size;
  }
  return taken;
}

}  // namespace

double BoundOnHull(const Parts& parts) {
  HullAnswer answer;
  TakeSteps(parts, StepsOf(parts), &answer);
  return answer.lower_bound;
}

HullAnswer SolveOnHull(const Parts& parts) {
  HullAnswer answer;
  const std::vector<Step> steps = StepsOf(parts);
  size_t taken = TakeSteps(parts, steps, &answer);
  // Sums in another order may be a last digit more.
  while (taken < steps.size() && ErrorOf(parts, answer.positions) > parts.budget) {
    answer.positions[steps[taken].layer] = steps[taken].to;
    ++taken;
  }
  if (ErrorOf(parts, answer.positions) > parts.budget) return answer;
  Fill(parts, &answer.positions);
  RefineCore(parts, steps, taken, &answer.positions);
  return answer;
}

HullAnswer SolveInTime(const Parts& parts) {
  const std::vector<Step> steps = StepsOf(parts);
  const size_t n = parts.layers.size();
  HullAnswer answer;
  answer.positions.resize(n);
  Positions least_size(n, 0);
  for (size_t l = 0; l < n; ++l) answer.positions[l] = static_cast<uint32_t>(parts.layers[l].size() - 1);
  // Nothing is done earlier than with all sizes least, nor need anything be later than with all errors least.
  const double earliest = FinishOf(parts, least_size);
  const double latest = FinishOf(parts, answer.positions);
  if (ErrorOf(parts, least_size) <= parts.budget) return {std::move(least_size), earliest};
  const int halvings = n > 1000 ? 14 : 40;
  // The bound: no mixture is within the budget by `below`.
  double below = earliest;
  double above = latest;
  for (int i = 0; i < halvings && below < above; ++i) {
    const double middle = below + (above - below) / 2;
    // In doubt, which is rounding, it is.
    const bool within = LeastErrorBy(parts, steps, middle, true).error <= parts.budget * (1 + 1e-12);
    (within ? above : below) = middle;
  }
  answer.lower_bound = below;
  // The choice: whole steps, so later.
  double low = below;
  double high = latest;
  for (int i = 0; i < halvings && low < high; ++i) {
    // Near the bound first.
    const double middle = low + (high - low) / (i == 0 ? 64 : 2);
    ByFinish found = LeastErrorBy(parts, steps, middle, false);
    const bool within = found.error <= parts.budget && ErrorOf(parts, found.positions) <= parts.budget;
    if (within) answer.positions = std::move(found.positions);
    (within ? high : low) = middle;
  }
  return answer;
}

}  // namespace terse::policy
