// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/knapsack.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/controller/policy/knapsack_parts.h"

namespace terse::policy {
namespace {

constexpr size_t kFew = 64;  // candidates in all below which the answer is exact
constexpr size_t kMostCandidates = 65536;
constexpr int kBins = 10000;
constexpr int kMostBins = 50000;
// Bins times candidates in all that the program may go through.
constexpr double kWork = 2e8;

bool Good(double x) { return std::isfinite(x) && x >= 0; }

absl::Status Check(const Knapsack& problem) {
  const size_t layers = problem.error.size();
  if (problem.size.size() != layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("error has ", layers, " layers and size ", problem.size.size()));
  }
  if (!problem.ready.empty() && problem.ready.size() != layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("ready has ", problem.ready.size(), " numbers for ", layers, " layers"));
  }
  if (std::isnan(problem.budget)) return absl::InvalidArgumentError("budget is no number");
  for (size_t l = 0; l < layers; ++l) {
    const auto wrong = [&](auto... words) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", l, ": ", words...));
    };
    if (problem.error[l].empty()) return wrong("no candidate");
    if (problem.error[l].size() > kMostCandidates) {
      return wrong(problem.error[l].size(), " candidates, more than ", kMostCandidates);
    }
    if (problem.error[l].size() != problem.size[l].size()) {
      return wrong(problem.error[l].size(), " errors and ", problem.size[l].size(), " sizes");
    }
    for (size_t k = 0; k < problem.error[l].size(); ++k) {
      if (!Good(problem.error[l][k])) {
        return wrong("error[", k, "] is ", problem.error[l][k], "; finite and not negative is allowed");
      }
      if (!Good(problem.size[l][k])) {
        return wrong("size[", k, "] is ", problem.size[l][k], "; finite and not negative is allowed");
      }
    }
    if (!problem.ready.empty() && !Good(problem.ready[l])) {
      return wrong("ready is ", problem.ready[l], "; finite and not negative is allowed");
    }
  }
  if (problem.fallback.empty()) return absl::OkStatus();
  if (problem.fallback.size() != layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("the fallback has ", problem.fallback.size(), " choices for ", layers, " layers"));
  }
  for (size_t l = 0; l < layers; ++l) {
    if (problem.fallback[l] >= problem.error[l].size()) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", l, ": the fallback is candidate ",
                                                     problem.fallback[l], " of ", problem.error[l].size()));
    }
  }
  return absl::OkStatus();
}

// Without candidates that others are better than, or as good and listed first.
Layer Undominated(const std::vector<double>& error, const std::vector<double>& size) {
  std::vector<uint32_t> order(error.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return size[a] != size[b] ? size[a] < size[b] : error[a] < error[b];
  });
  Layer layer;
  for (const uint32_t k : order) {
    if (layer.empty() || error[k] < layer.back().error) layer.push_back({error[k], size[k], k});
  }
  return layer;
}

Parts PartsOf(const Knapsack& problem) {
  Parts parts;
  parts.layers.reserve(problem.error.size());
  for (size_t l = 0; l < problem.error.size(); ++l) {
    parts.layers.push_back(Undominated(problem.error[l], problem.size[l]));
  }
  parts.ready = problem.ready;
  parts.ready.resize(parts.layers.size(), 0.0);
  parts.budget = problem.budget;
  return parts;
}

std::vector<uint32_t> ChoiceOf(const Parts& parts, const Positions& positions) {
  std::vector<uint32_t> choice(positions.size());
  for (size_t l = 0; l < positions.size(); ++l) choice[l] = parts.layers[l][positions[l]].index;
  return choice;
}

Positions LeastError(const Parts& parts) {
  Positions positions(parts.layers.size());
  for (size_t l = 0; l < positions.size(); ++l) {
    positions[l] = static_cast<uint32_t>(parts.layers[l].size() - 1);
  }
  return positions;
}

// Layers that have time to spare take candidates of less error for nothing.
void SpendSpareTime(const Parts& parts, Positions* positions) {
  const size_t n = parts.layers.size();
  // From layer l on, everything is done `tail[l]` after l is done at the earliest, and no sooner than
  // `rest[l]`.
  std::vector<double> tail(n + 1, 0.0);
  std::vector<double> rest(n + 1, 0.0);
  for (size_t l = n; l-- > 0;) {
    const double size = parts.layers[l][(*positions)[l]].size;
    tail[l] = size + tail[l + 1];
    rest[l] = std::max(rest[l + 1], parts.ready[l] + tail[l]);
  }
  const double finish = FinishOf(parts, *positions);
  double done = 0;
  for (size_t l = 0; l < n; ++l) {
    const Layer& layer = parts.layers[l];
    const double start = std::max(done, parts.ready[l]);
    uint32_t best = (*positions)[l];
    while (best + 1 < layer.size() &&
           std::max(start + layer[best + 1].size + tail[l + 1], rest[l + 1]) <= finish) {
      ++best;
    }
    (*positions)[l] = best;
    done = start + layer[best].size;
  }
}

class Best {
 public:
  Best(const Parts& parts, bool timed) : parts_(parts), timed_(timed) {}

  void Offer(Positions positions, KnapsackWay way) {
    if (ErrorOf(parts_, positions) > parts_.budget) return;
    if (timed_) {
      // Sums in another order may come out a last digit longer.
      Positions more = positions;
      SpendSpareTime(parts_, &more);
      if (FinishOf(parts_, more) <= FinishOf(parts_, positions) && ErrorOf(parts_, more) <= parts_.budget) {
        positions = std::move(more);
      }
    }
    const std::pair<double, double> worth = {FinishOf(parts_, positions), ErrorOf(parts_, positions)};
    if (positions_.has_value() && worth >= worth_) return;
    positions_ = std::move(positions);
    worth_ = worth;
    way_ = way;
  }
  const std::optional<Positions>& positions() const { return positions_; }
  KnapsackWay way() const { return way_; }

 private:
  const Parts& parts_;
  bool timed_;
  std::optional<Positions> positions_;
  std::pair<double, double> worth_;
  KnapsackWay way_ = KnapsackWay::kHull;
};

// Of an answer that was found, or of the fallback where that is within the budget and better.
absl::StatusOr<KnapsackAnswer> BetterOfFallback(const Knapsack& problem,
                                                std::optional<KnapsackAnswer> found) {
  if (!problem.fallback.empty()) {
    KnapsackAnswer fallback = Evaluate(problem, problem.fallback);
    fallback.way = KnapsackWay::kFallback;
    if (fallback.error <= problem.budget && (!found.has_value() || fallback.finish < found->finish)) {
      if (found.has_value()) fallback.lower_bound = found->lower_bound;
      return fallback;
    }
  }
  if (!found.has_value()) return absl::OutOfRangeError("no choice is within the budget in whole bins");
  return *std::move(found);
}

}  // namespace

std::string_view Name(KnapsackWay way) {
  switch (way) {
    case KnapsackWay::kExact:
      return "exact";
    case KnapsackWay::kBins:
      return "bins";
    case KnapsackWay::kHull:
      return "hull";
    case KnapsackWay::kFallback:
      return "fallback";
  }
  return "";
}

double ErrorOf(const Parts& parts, const Positions& positions) {
  double error = 0;
  for (size_t l = 0; l < positions.size(); ++l) error += parts.layers[l][positions[l]].error;
  return error;
}

double FinishOf(const Parts& parts, const Positions& positions) {
  double finish = 0;
  for (size_t l = 0; l < positions.size(); ++l) {
    finish = std::max(finish, parts.ready[l]) + parts.layers[l][positions[l]].size;
  }
  return finish;
}

double KnapsackAnswer::Gap(bool with_ready) const {
  const double value = with_ready ? finish : size;
  if (value <= lower_bound) return 0;
  return lower_bound > 0 ? value / lower_bound - 1 : HUGE_VAL;
}

KnapsackAnswer Evaluate(const Knapsack& problem, const std::vector<uint32_t>& choice) {
  KnapsackAnswer answer;
  answer.choice = choice;
  for (size_t l = 0; l < choice.size(); ++l) {
    const double size = problem.size[l][choice[l]];
    answer.size += size;
    answer.error += problem.error[l][choice[l]];
    answer.finish = std::max(answer.finish, problem.ready.empty() ? 0.0 : problem.ready[l]) + size;
  }
  return answer;
}

namespace {

absl::Status CheckFeasible(const Parts& parts, const Positions& least_error) {
  const double least = ErrorOf(parts, least_error);
  if (least <= parts.budget) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("no choice is within the budget of ", parts.budget,
                                            ": the least error that there is is ", least));
}

}  // namespace

absl::StatusOr<double> LowerBound(const Knapsack& problem) {
  if (absl::Status status = Check(problem); !status.ok()) return status;
  const Parts parts = PartsOf(problem);
  if (absl::Status status = CheckFeasible(parts, LeastError(parts)); !status.ok()) return status;
  return problem.ready.empty() ? BoundOnHull(parts) : SolveInTime(parts).lower_bound;
}

absl::StatusOr<KnapsackAnswer> Solve(const Knapsack& problem) {
  if (absl::Status status = Check(problem); !status.ok()) return status;
  const Parts parts = PartsOf(problem);
  const Positions least_error = LeastError(parts);
  if (absl::Status status = CheckFeasible(parts, least_error); !status.ok()) return status;
  const bool timed = !problem.ready.empty();
  Best best(parts, timed);
  best.Offer(least_error, KnapsackWay::kHull);
  HullAnswer hull = timed ? SolveInTime(parts) : SolveOnHull(parts);
  best.Offer(std::move(hull.positions), KnapsackWay::kHull);

  size_t all = 0;
  for (const std::vector<double>& layer : problem.error) all += layer.size();
  if (all < kFew) {
    if (auto exact = SolveExactly(parts); exact.has_value())
      best.Offer(*std::move(exact), KnapsackWay::kExact);
  } else if (static_cast<double>(all) * kBins <= kWork) {
    const int bins = static_cast<int>(std::min<double>(kMostBins, kWork / static_cast<double>(all)));
    if (auto binned = SolveInBins(parts, bins); binned.has_value()) {
      best.Offer(*std::move(binned), KnapsackWay::kBins);
    }
  }
  KnapsackAnswer answer = Evaluate(problem, ChoiceOf(parts, *best.positions()));
  // An exact answer may have been found by a way that was tried before.
  answer.way = all < kFew ? KnapsackWay::kExact : best.way();
  answer.lower_bound = std::min(hull.lower_bound, timed ? answer.finish : answer.size);
  return BetterOfFallback(problem, std::move(answer));
}

absl::StatusOr<KnapsackAnswer> SolveByBins(const Knapsack& problem, int bins) {
  if (absl::Status status = Check(problem); !status.ok()) return status;
  if (bins < 1) return absl::InvalidArgumentError("at least one bin");
  const Parts parts = PartsOf(problem);
  std::optional<KnapsackAnswer> found;
  if (const auto positions = SolveInBins(parts, bins);
      positions.has_value() && ErrorOf(parts, *positions) <= parts.budget) {
    found = Evaluate(problem, ChoiceOf(parts, *positions));
    found->way = KnapsackWay::kBins;
    const bool timed = !problem.ready.empty();
    found->lower_bound = std::min(timed ? SolveInTime(parts).lower_bound : BoundOnHull(parts),
                                  timed ? found->finish : found->size);
  }
  return BetterOfFallback(problem, std::move(found));
}

}  // namespace terse::policy
