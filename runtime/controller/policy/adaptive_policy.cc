// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/adaptive_policy.h"

#include <algorithm>
#include <cmath>
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

// Accordion's relative change of a gradient's norm from which on a tensor is critical.
constexpr double kCritical = 0.5;

}  // namespace

AdaptivePolicy::AdaptivePolicy(const wire::Config& config, int world_size,
                               absl::Span<const TensorInfo> tensors)
    : options_(config.policy), held_(tensors.size(), false), last_norm_(tensors.size(), -1.0) {
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
    if (candidates_[t].Fixed()) continue;
    const TensorStatistics& its = statistics[t];
    if (its.squared_error.empty()) continue;
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

double AdaptivePolicy::ErrorOf(const TensorStatistics& statistics, size_t candidate) const {
  const double squared = statistics.squared_error[candidate];
  return options_.error == wire::ErrorMetric::kNorm ? std::sqrt(squared) : squared;
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

// Of the tensors in `free`; the budget is what the reference's choice leaves behind of these.
Knapsack AdaptivePolicy::ProblemOf(absl::Span<const TensorStatistics> statistics,
                                   const std::vector<size_t>& reference,
                                   const std::vector<size_t>& free) const {
  Knapsack problem;
  for (const size_t t : free) {
    std::vector<double> error;
    std::vector<double> size;
    for (size_t k = 0; k < candidates_[t].all.size(); ++k) {
      error.push_back(ErrorOf(statistics[t], k));
      size.push_back(candidates_[t].all[k].bytes);
    }
    problem.budget += error[reference[t]];
    problem.fallback.push_back(static_cast<uint32_t>(reference[t]));
    problem.error.push_back(std::move(error));
    problem.size.push_back(std::move(size));
  }
  const double alpha = options_.alpha;
  problem.budget *= options_.error == wire::ErrorMetric::kNorm ? alpha : alpha * alpha;
  return problem;
}

absl::StatusOr<AdaptiveOutcome> AdaptivePolicy::Step(absl::Span<const TensorStatistics> statistics) {
  if (absl::Status status = Check(statistics); !status.ok()) return status;
  std::vector<size_t> reference(candidates_.size());
  for (size_t t = 0; t < candidates_.size(); ++t) reference[t] = candidates_[t].uniform;
  if (options_.name != wire::PolicyName::kLgreco) reference = AccordionChoice(statistics);

  std::vector<size_t> free;
  for (size_t t = 0; t < candidates_.size(); ++t) {
    if (!held_[t] && !candidates_[t].Fixed() && !statistics[t].squared_error.empty()) free.push_back(t);
  }
  const Knapsack problem = ProblemOf(statistics, reference, free);
  std::vector<size_t> choice = choice_;

  AdaptiveOutcome outcome;
  outcome.budget = problem.budget;
  std::vector<uint32_t> now;
  for (const size_t t : free) now.push_back(static_cast<uint32_t>(choice_[t]));
  const KnapsackAnswer present = Evaluate(problem, now);
  const KnapsackAnswer uniform = Evaluate(problem, problem.fallback);
  for (const size_t t : free) outcome.uniform_bytes += candidates_[t].all[candidates_[t].uniform].bytes;

  std::vector<uint32_t> wanted = problem.fallback;
  if (options_.name != wire::PolicyName::kAccordion && !free.empty()) {
    auto solved = free.size() <= kMostForBins && options_.error == wire::ErrorMetric::kNorm
                      ? SolveByBins(problem)
                      : Solve(problem);
    // With alpha below 1 there may be no choice at all but dense, which there always is.
    if (!solved.ok()) return solved.status();
    wanted = solved->choice;
    outcome.lower_bound = solved->lower_bound;
    outcome.way = solved->way;
  }
  const KnapsackAnswer next = Evaluate(problem, wanted);
  const bool blind = uniform.error == 0;  // no gradient
  const bool over = present.error > problem.budget;
  const bool gains = next.size < (1 - options_.gain) * present.size;
  const bool free_moves =
      wanted != now && !blind && (options_.name == wire::PolicyName::kAccordion || over || gains);
  if (free_moves) {
    for (size_t i = 0; i < free.size(); ++i) choice[free[i]] = wanted[i];
  }
  const KnapsackAnswer& taken = free_moves ? next : present;
  outcome.changed = free_moves;
  outcome.bytes = taken.size;
  outcome.error = taken.error;
  if (free_moves) {
    outcome.why = absl::StrFormat("%s: %.4g bytes a step in place of %.4g, error %.3g of %.3g",
                                  Name(options_.name), next.size, present.size, next.error, problem.budget);
  } else if (blind) {
    outcome.why = "no gradient to decide from";
  } else {
    outcome.why = absl::StrFormat("%s would gain less than %.3g %% (%.4g bytes a step, %.4g now)",
                                  Name(options_.name), 100 * options_.gain, next.size, present.size);
  }
  if (outcome.changed) Adopt(statistics, choice, outcome);
  return outcome;
}

void AdaptivePolicy::Adopt(absl::Span<const TensorStatistics> statistics, const std::vector<size_t>& choice,
                           const AdaptiveOutcome& outcome) {
  for (size_t t = 0; t < candidates_.size(); ++t) {
    if (candidates_[t].Fixed()) continue;
    if (held_[t] || statistics[t].squared_error.empty()) continue;
    const Candidate& candidate = candidates_[t].all[choice[t]];
    rows_[t] = candidate.row;
    const double error = ErrorOf(statistics[t], choice[t]);
    rows_[t].reason =
        absl::StrFormat("%s: %s, %.3g %% of the error, %.3g %% of the bytes", Name(options_.name),
                        SettingText(candidate.row), outcome.error > 0 ? 100 * error / outcome.error : 0.0,
                        outcome.bytes > 0 ? 100 * candidate.bytes / outcome.bytes : 0.0);
  }
  choice_ = choice;
}

}  // namespace terse::policy
