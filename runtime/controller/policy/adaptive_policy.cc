// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/adaptive_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/controller/policy/setting.h"

namespace terse::policy {
namespace {

constexpr size_t kMostForBins = 100;  // tensors

bool Good(double x) { return std::isfinite(x) && x >= 0; }

std::string_view Name(wire::PolicyName name) {
  switch (name) {
    case wire::PolicyName::kStatic:
      return "static";
    case wire::PolicyName::kLgreco:
      return "lgreco";
    case wire::PolicyName::kAccordion:
      return "accordion";
    case wire::PolicyName::kLgrecoAccordion:
      return "lgreco in accordion's budget";
    case wire::PolicyName::kReplay:
      return "replay";
  }
  return "";
}

// What waits that is longer than so many gradients says nothing of them: measured by them it would be all of
// the budget, and leave the other tensors nothing to keep.
constexpr double kMostWaiting = 1e4;

// Accordion's relative change of a gradient's norm from which on a tensor is critical.
constexpr double kCritical = 0.5;

}  // namespace

AdaptivePolicy::AdaptivePolicy(const wire::Config& config, int world_size,
                               absl::Span<const TensorInfo> tensors)
    : config_(config),
      options_(config.policy),
      world_size_(world_size),
      tensors_(tensors.begin(), tensors.end()),
      held_(tensors.size(), false),
      last_norm_(tensors.size(), -1.0) {
  for (const TensorInfo& tensor : tensors) {
    candidates_.push_back(CandidatesOf(config, world_size, tensor));
    const Candidates& its = candidates_.back();
    choice_.push_back(its.uniform);
    rows_.push_back(StaticRow(config, world_size, tensor));
  }
}

void AdaptivePolicy::Assume(absl::Span<const wire::PlanRow> rows,
                            const std::function<bool(size_t)>& foreign) {
  for (size_t t = 0; t < candidates_.size(); ++t) {
    if (foreign && foreign(t)) continue;
    const std::string text = wire::RowText(rows[t]);
    const std::vector<Candidate>& all = candidates_[t].all;
    const auto same = std::find_if(all.begin(), all.end(),
                                   [&](const Candidate& c) { return wire::RowText(c.row) == text; });
    choice_[t] = same == all.end() ? candidates_[t].uniform : static_cast<size_t>(same - all.begin());
    rows_[t] = rows[t];
  }
}

absl::Status AdaptivePolicy::SetAlpha(double alpha) {
  if (!std::isfinite(alpha) || alpha <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("alpha is ", alpha, "; above 0 is allowed"));
  }
  options_.alpha = alpha;
  return absl::OkStatus();
}

absl::Status AdaptivePolicy::Check(absl::Span<const TensorStatistics> statistics) const {
  if (statistics.size() != candidates_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("statistics of ", statistics.size(), " tensors where there are ", candidates_.size()));
  }
  for (size_t t = 0; t < statistics.size(); ++t) {
    const TensorStatistics& its = statistics[t];
    if (!Good(its.ready_ms) || !Good(its.times.wire_ms) || !Good(its.times.codec_ms))
      return absl::InvalidArgumentError(absl::StrCat("tensor ", t, ": a time is not finite or negative"));
    if (candidates_[t].Fixed() || its.squared_error.empty()) continue;
    if (its.squared_error.size() != candidates_[t].all.size()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", t, ": ", its.squared_error.size(),
                                                     " errors for ", candidates_[t].all.size(),
                                                     " candidates"));
    }
    const auto bad = std::find_if_not(its.squared_error.begin(), its.squared_error.end(), Good);
    if (bad != its.squared_error.end() || !Good(its.norm)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", t, ": an error or a norm is ",
                                                     bad != its.squared_error.end() ? *bad : its.norm));
    }
  }
  return absl::OkStatus();
}

double AddedError(wire::ErrorMetric metric, double squared, uint64_t elements, double norm) {
  if (metric == wire::ErrorMetric::kNorm) return std::sqrt(squared);
  if (metric == wire::ErrorMetric::kSquaredNorm) return squared;
  if (!(std::sqrt(squared) <= kMostWaiting * norm)) return std::numeric_limits<double>::infinity();
  const auto n = static_cast<double>(elements);
  return metric == wire::ErrorMetric::kRelative ? squared / norm * n / norm : squared / norm * std::sqrt(n);
}

double AdaptivePolicy::ErrorOf(size_t tensor, const TensorStatistics& statistics, size_t candidate) const {
  return AddedError(options_.error, statistics.squared_error[candidate], tensors_[tensor].elements,
                    statistics.norm);
}

bool AdaptivePolicy::Free(size_t tensor, const TensorStatistics& statistics) const {
  if (held_[tensor] || candidates_[tensor].Fixed()) return false;
  // Without a gradient a relative error is none.
  for (size_t k = 0; k < statistics.squared_error.size(); ++k) {
    if (!std::isfinite(ErrorOf(tensor, statistics, k))) return false;
  }
  return !statistics.squared_error.empty();
}

std::vector<size_t> AdaptivePolicy::AccordionChoice(absl::Span<const TensorStatistics> statistics) {
  std::vector<size_t> choice(candidates_.size());
  for (size_t t = 0; t < candidates_.size(); ++t) {
    const Candidates& its = candidates_[t];
    choice[t] = its.uniform;
    if (its.Fixed() || statistics[t].squared_error.empty()) continue;
    // What was never seen, or was nothing, is critical.
    const double before = last_norm_[t];
    const bool critical = before <= 0 || std::fabs(statistics[t].norm - before) >= kCritical * before;
    choice[t] = critical ? its.mild : its.strong;
    last_norm_[t] = statistics[t].norm;
  }
  return choice;
}

// The budget is what the reference's choice leaves behind of those that are free.
Knapsack AdaptivePolicy::KnapsackOf(absl::Span<const TensorStatistics> statistics,
                                    const std::vector<size_t>& reference, const Problem& of) const {
  Machine machine;
  if (Timed()) {
    std::vector<ExchangeTimes> times;
    for (const TensorStatistics& its : statistics) times.push_back(its.times);
    machine = Calibrated(config_, world_size_, tensors_, rows_, times);
  }
  const auto size_of = [&](size_t t, const wire::PlanRow& row, double bytes) {
    return Timed() ? 1e3 * CostOf(row, machine, world_size_, tensors_[t]).seconds : bytes;
  };
  Knapsack knapsack;
  for (const size_t t : of.layers) {
    std::vector<double> error;
    std::vector<double> size;
    if (of.free[t]) {
      for (size_t k = 0; k < candidates_[t].all.size(); ++k) {
        const Candidate& candidate = candidates_[t].all[k];
        error.push_back(ErrorOf(t, statistics[t], k));
        size.push_back(size_of(t, candidate.row, candidate.bytes));
      }
      knapsack.budget += error[reference[t]];
    } else {
      error.push_back(0);
      size.push_back(size_of(t, rows_[t], 0));
    }
    knapsack.fallback.push_back(of.free[t] ? static_cast<uint32_t>(reference[t]) : 0);
    knapsack.error.push_back(std::move(error));
    knapsack.size.push_back(std::move(size));
    if (Timed()) knapsack.ready.push_back(statistics[t].ready_ms);
  }
  const double alpha = options_.alpha;
  knapsack.budget *= options_.error == wire::ErrorMetric::kNorm ? alpha : alpha * alpha;
  return knapsack;
}

AdaptivePolicy::Problem AdaptivePolicy::ProblemOf(absl::Span<const TensorStatistics> statistics) {
  std::vector<size_t> reference(candidates_.size());
  for (size_t t = 0; t < candidates_.size(); ++t) reference[t] = candidates_[t].uniform;
  if (options_.name != wire::PolicyName::kLgreco) reference = AccordionChoice(statistics);

  Problem problem;
  problem.free.resize(candidates_.size());
  for (size_t t = 0; t < candidates_.size(); ++t) {
    problem.free[t] = Free(t, statistics[t]);
    // The others' exchanges take time as well.
    if (problem.free[t] || Timed()) problem.layers.push_back(t);
  }
  if (Timed()) {
    std::stable_sort(problem.layers.begin(), problem.layers.end(),
                     [&](size_t a, size_t b) { return statistics[a].ready_ms < statistics[b].ready_ms; });
  }
  problem.knapsack = KnapsackOf(statistics, reference, problem);
  for (const size_t t : problem.layers) {
    problem.now.push_back(problem.free[t] ? static_cast<uint32_t>(choice_[t]) : 0);
    problem.count += problem.free[t] ? 1 : 0;
  }
  return problem;
}

absl::StatusOr<std::vector<uint32_t>> AdaptivePolicy::Choose(const Problem& problem,
                                                             const KnapsackAnswer& present,
                                                             AdaptiveOutcome* outcome) const {
  if (options_.name == wire::PolicyName::kAccordion || problem.count == 0) return problem.knapsack.fallback;
  // With alpha below 1 there may be no choice at all but dense, which there always is.
  const absl::StatusOr<double> bound = LowerBound(problem.knapsack);
  if (!bound.ok()) return bound.status();
  outcome->lower_bound = *bound;
  outcome->way = KnapsackWay::kHull;
  // Where nothing within the budget could gain enough, nothing is looked for: it takes a hundred times as
  // long.
  const bool over = present.error > problem.knapsack.budget;
  if (!over && *bound >= (1 - options_.gain) * ValueOf(present)) return problem.now;
  const bool bins = problem.count <= kMostForBins && options_.error == wire::ErrorMetric::kNorm && !Timed();
  auto solved = bins ? SolveByBins(problem.knapsack) : Solve(problem.knapsack);
  if (!solved.ok()) return solved.status();
  outcome->lower_bound = solved->lower_bound;
  outcome->way = solved->way;
  return std::move(solved->choice);
}

double AdaptivePolicy::TotalBytes(const Problem& problem, const std::vector<uint32_t>& choice) const {
  double bytes = 0;
  for (size_t i = 0; i < problem.layers.size(); ++i) {
    const size_t t = problem.layers[i];
    if (problem.free[t]) bytes += candidates_[t].all[choice[i]].bytes;
  }
  return bytes;
}

std::string AdaptivePolicy::Text(const KnapsackAnswer& answer, double bytes) const {
  return Timed() ? absl::StrFormat("done after %.4g ms, %.4g bytes a step", answer.finish, bytes)
                 : absl::StrFormat("%.4g bytes a step", bytes);
}

absl::StatusOr<AdaptiveOutcome> AdaptivePolicy::Step(absl::Span<const TensorStatistics> statistics) {
  if (absl::Status status = Check(statistics); !status.ok()) return status;
  const Problem problem = ProblemOf(statistics);
  const KnapsackAnswer present = Evaluate(problem.knapsack, problem.now);
  const KnapsackAnswer uniform = Evaluate(problem.knapsack, problem.knapsack.fallback);
  AdaptiveOutcome outcome;
  const auto wanted = Choose(problem, present, &outcome);
  if (!wanted.ok()) return wanted.status();
  const KnapsackAnswer next = Evaluate(problem.knapsack, *wanted);

  const bool blind = uniform.error == 0;  // no gradient
  const bool over = present.error > problem.knapsack.budget;
  const bool gains = ValueOf(next) < (1 - options_.gain) * ValueOf(present);
  outcome.changed =
      *wanted != problem.now && !blind && (options_.name == wire::PolicyName::kAccordion || over || gains);
  const KnapsackAnswer& taken = outcome.changed ? next : present;
  const double present_bytes = TotalBytes(problem, problem.now);
  const double next_bytes = TotalBytes(problem, *wanted);
  outcome.bytes = outcome.changed ? next_bytes : present_bytes;
  for (const size_t t : problem.layers)
    outcome.uniform_bytes += problem.free[t] ? candidates_[t].all[candidates_[t].uniform].bytes : 0;
  outcome.error = taken.error;
  outcome.budget = problem.knapsack.budget;
  // Where a plan is at its bound, rounding may have put it below.
  if (taken.error <= outcome.budget) outcome.lower_bound = std::min(outcome.lower_bound, ValueOf(taken));
  if (Timed()) {
    outcome.finish_ms = taken.finish;
    outcome.uniform_finish_ms = uniform.finish;
  }
  if (outcome.changed) {
    outcome.why = absl::StrFormat(
        "%s: %s in place of %s, error %.3g of %.3g", Name(options_.name), Text(next, next_bytes),
        Timed() ? Text(present, present_bytes) : absl::StrFormat("%.4g", present_bytes), next.error,
        outcome.budget);
  } else if (blind) {
    outcome.why = "no gradient to decide from";
  } else {
    outcome.why =
        absl::StrFormat("%s would gain less than %.3g %% (%s, %s now)", Name(options_.name),
                        100 * options_.gain, Text(next, next_bytes),
                        Timed() ? Text(present, present_bytes) : absl::StrFormat("%.4g", present_bytes));
  }
  if (outcome.changed) Adopt(statistics, problem, *wanted, outcome);
  return outcome;
}

void AdaptivePolicy::Adopt(absl::Span<const TensorStatistics> statistics, const Problem& problem,
                           const std::vector<uint32_t>& wanted, const AdaptiveOutcome& outcome) {
  for (size_t i = 0; i < problem.layers.size(); ++i) {
    const size_t t = problem.layers[i];
    if (!problem.free[t]) continue;
    choice_[t] = wanted[i];
    const Candidate& candidate = candidates_[t].all[choice_[t]];
    rows_[t] = candidate.row;
    const double error = ErrorOf(t, statistics[t], choice_[t]);
    rows_[t].reason =
        absl::StrFormat("%s: %s, %.3g %% of the error, %.3g %% of the bytes", Name(options_.name),
                        SettingText(candidate.row), outcome.error > 0 ? 100 * error / outcome.error : 0.0,
                        outcome.bytes > 0 ? 100 * candidate.bytes / outcome.bytes : 0.0);
  }
}

}  // namespace terse::policy
