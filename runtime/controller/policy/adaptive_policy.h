// SPDX-License-Identifier: Apache-2.0
//
// The policies that decide anew while a job trains, from what each tensor's candidates would leave behind:
//
//   lgreco      the candidates of least bytes whose errors add up to what the configured setting's do, times
//               alpha (Markov et al., MLSys 2024; reference: lgreco.md). Up to a hundred tensors by the
//               published program of 10,000 bins, with the configured setting to fall back on; beyond these,
//               where a bin a tensor is too much, on the hull (knapsack.h)
//   accordion   twice the configured bytes for a tensor whose gradient's norm has changed by half or more
//   since
//               it was last looked at, else half of them (Agarwal et al., MLSys 2021)
//   lgreco_accordion   accordion's choice is the budget, and lgreco divides it
//
// `policy.error` says what adds up: norms, as published; their squares, which the error of the whole is made
// of; squares over the mean square of the tensor's gradient, n e^2 / |g|^2 with n elements; or what they cost
// Adam, sqrt(n) e^2 / |g|. With squares the budget is alpha squared, so that alpha is of norms in all of
// them. A tensor without a gradient has none of the last two, and stays.
//
//   Adam divides each element by its root mean square, which noise of a relative variance of e^2 / |g|^2
//   makes sqrt(1 + e^2 / |g|^2) times as large. A step of steepest descent in its norm lowers the loss by
//   |g|_1, about sqrt(n) |g|, and so by sqrt(n) |g| e^2 / (2 |g|^2) less.
//
// `policy.objective` says what lgreco makes small: bytes, or the time at which the last tensor of a step is
// there, by the cost model fitted to what the job measured (calibration.h). Tensors whose exchange hides
// behind the job's computing cost nothing then, and of equal times the one of less error is taken.
//
// A plan is left alone while another would gain less than `policy.gain` of that, as long as it keeps the
// budget; and where nothing can be told (no gradient). A tensor that is held has no part in it.
//
// A state machine without clock or randomness: the same calls give the same plans, everywhere. One owner.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_ADAPTIVE_POLICY_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_ADAPTIVE_POLICY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/controller/policy/calibration.h"
#include "runtime/controller/policy/candidates.h"
#include "runtime/controller/policy/knapsack.h"

namespace terse::policy {

// Of one tensor: means over a window of steps and over ranks.
struct TensorStatistics {
  // Of the gradient with residual, by candidate. Empty: nothing was measured, and the tensor stays as it is.
  std::vector<double> squared_error;
  double norm = 0;  // of the gradient
  // For policy.objective: time. How long the job computes before it hands the gradient over, in a step; and
  // what an exchange by the row in force takes.
  double ready_ms = 0;
  ExchangeTimes times = {};
};

// What leaving `squared` of a tensor of so many elements behind adds up to; infinite where that is by a
// gradient next to which it is nothing.
double AddedError(wire::ErrorMetric metric, double squared, uint64_t elements, double norm);

// What a call of Step came to.
struct AdaptiveOutcome {
  bool changed = false;
  double bytes = 0;          // that a rank sends in a step under the rows, of tensors that are compressed
  double uniform_bytes = 0;  // under the configured setting
  double error = 0;          // as they add up
  double budget = 0;
  double lower_bound = 0;  // of what the objective makes small, bytes or ms, under the budget; lgreco only
  // With policy.objective: time, by the calibrated model: when the last tensor of a step is there, computing
  // included, under the rows and under the configured setting.
  double finish_ms = 0;
  double uniform_finish_ms = 0;
  KnapsackWay way = KnapsackWay::kFallback;
  std::string why;  // in words: what was gained, or why nothing changed
};

class AdaptivePolicy {
 public:
  // By config.policy, whose name is not `static`; families are names of codecs (Settings::Validate).
  AdaptivePolicy(const wire::Config& config, int world_size, absl::Span<const TensorInfo> tensors);

  // By tensor; whoever measures errors needs them.
  const std::vector<Candidates>& candidates() const { return candidates_; }
  // The rows in force: at first the configured ones.
  const std::vector<wire::PlanRow>& rows() const { return rows_; }
  // The candidates that these are, by tensor.
  const std::vector<size_t>& choice() const { return choice_; }

  // The rows in force are these, for a policy that comes to a job that runs; but for tensors whose rows are
  // `foreign`, somebody else's choice, of which the policy's own stays. What is no candidate counts as the
  // configured one. As many as tensors.
  void Assume(absl::Span<const wire::PlanRow> rows, const std::function<bool(size_t)>& foreign = {});

  // INVALID_ARGUMENT, and nothing is changed: statistics of other tensors or candidates, or numbers that are
  // not finite or negative. A tensor that is not compressed needs none.
  absl::StatusOr<AdaptiveOutcome> Step(absl::Span<const TensorStatistics> statistics);

  // From the next Step on the tensor is left out, its row and its part of the budget; or is chosen again.
  void Hold(size_t tensor, bool held) { held_[tensor] = held; }
  // INVALID_ARGUMENT unless finite and above 0.
  absl::Status SetAlpha(double alpha);

 private:
  absl::Status Check(absl::Span<const TensorStatistics> statistics) const;
  double ErrorOf(size_t tensor, const TensorStatistics& statistics, size_t candidate) const;
  // Whether it is among what is chosen for: neither held nor fixed, and its errors are known.
  bool Free(size_t tensor, const TensorStatistics& statistics) const;
  std::vector<size_t> AccordionChoice(absl::Span<const TensorStatistics> statistics);
  // What is to be decided from one step's statistics.
  struct Problem {
    std::vector<bool> free;      // by tensor: it may change
    std::vector<size_t> layers;  // tensors that count, in the order of exchange if time does
    Knapsack knapsack;           // by layer; one that is not free has one candidate, its row in force
    std::vector<uint32_t> now;   // the choice in force, by layer
    size_t count = 0;            // layers that are free
  };
  Problem ProblemOf(absl::Span<const TensorStatistics> statistics);
  Knapsack KnapsackOf(absl::Span<const TensorStatistics> statistics, const std::vector<size_t>& reference,
                      const Problem& of) const;
  // The choice that the policy would have, by layer; that in force where looking for another cannot pay.
  absl::StatusOr<std::vector<uint32_t>> Choose(const Problem& problem, const KnapsackAnswer& present,
                                               AdaptiveOutcome* outcome) const;
  double TotalBytes(const Problem& problem, const std::vector<uint32_t>& choice) const;
  std::string Text(const KnapsackAnswer& answer, double bytes) const;
  double ValueOf(const KnapsackAnswer& answer) const { return Timed() ? answer.finish : answer.size; }
  bool Timed() const { return options_.objective == wire::Objective::kTime; }
  void Adopt(absl::Span<const TensorStatistics> statistics, const Problem& problem,
             const std::vector<uint32_t>& wanted, const AdaptiveOutcome& outcome);

  wire::Config config_;
  wire::Config::Policy options_;
  const int world_size_;
  std::vector<TensorInfo> tensors_;
  std::vector<Candidates> candidates_;
  std::vector<size_t> choice_;  // by tensor
  std::vector<bool> held_;
  std::vector<double> last_norm_;  // accordion; negative: never seen
  std::vector<wire::PlanRow> rows_;
};

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_ADAPTIVE_POLICY_H_
