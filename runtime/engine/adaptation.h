// SPDX-License-Identifier: Apache-2.0
//
// What a policy that decides while the job trains needs of the data path. In the last steps before each
// decision (policy.window of every policy.interval) the ranks share the tensors out among themselves, others
// in each step and no rank one of them twice, and measure what each candidate would leave of the gradient
// with its residual (compressors/errors). Then these sums are added up over the ranks, rank 0 asks the
// policy, and all ranks go over to what it says, at the same step.
//
// Owned and used by the engine alone. What it does on all ranks alike follows from applied steps and from the
// table of tensors, which ranks have compared.
#ifndef TERSE_RUNTIME_ENGINE_ADAPTATION_H_
#define TERSE_RUNTIME_ENGINE_ADAPTATION_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/controller/policy/adaptive_policy.h"
#include "runtime/engine/tensor.h"
#include "transport/transport.h"

namespace terse::engine {

class Adaptation {
 public:
  // Both outlive this.
  Adaptation(const wire::Config& config, transport::Group* group) : config_(config), group_(*group) {}

  // Whether this rank measures the tensor in this step, of which it is the exchange.
  bool Measures(uint32_t tensor, uint64_t step) const;
  // Of the gradient that is about to be exchanged, unscaled. `tensors` is the engine's table.
  absl::Status Measure(absl::Span<const std::unique_ptr<Tensor>> tensors, Tensor* tensor,
                       absl::Span<const float> gradient);

  // Whether a decision comes after so many applied steps.
  bool Due(uint64_t step) const { return step % static_cast<uint64_t>(config_.policy.interval) == 0; }
  // The decision: the rows that all ranks are to go over to; nullopt: none. What was measured is forgotten.
  // Collective. An error of the transport leaves the group unusable.
  absl::StatusOr<std::optional<std::vector<wire::PlanRow>>> Decide(
      absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step, std::chrono::milliseconds patience);

  // For the report.
  struct Change {
    std::string tensor;
    std::string from;  // policy::SettingText
    std::string to;
  };
  struct Event {
    uint64_t step = 0;
    bool changed = false;
    std::string why;
    double bytes = 0;
    double uniform_bytes = 0;
    double error = 0;
    double budget = 0;
    double lower_bound = 0;
    std::string way;
    std::vector<Change> changes;
  };
  const std::deque<Event>& events() const { return events_; }  // the last of them
  uint64_t decisions() const { return decisions_; }
  uint64_t plans() const { return plans_; }
  double measure_ms() const { return measure_ms_; }  // of this rank
  double decide_ms() const { return decide_ms_; }    // with the wait for the others

 private:
  // Sums of one tensor, on this rank, then over all.
  struct Sums {
    double count = 0;
    double norm = 0;
    std::vector<double> squared_error;
  };

  // The policy and the sums are of this table.
  void Prepare(absl::Span<const std::unique_ptr<Tensor>> tensors);
  absl::Status AddUpOverRanks(std::chrono::milliseconds patience);
  // What rank 0 tells the others, and what they make of it.
  std::string Ask(absl::Span<const std::unique_ptr<Tensor>> tensors);
  absl::StatusOr<std::string> HearRank0(std::string mine, std::chrono::milliseconds patience);

  const wire::Config& config_;
  transport::Group& group_;
  std::unique_ptr<policy::AdaptivePolicy> policy_;
  size_t tensors_ = 0;  // of the table that it is for
  std::vector<Sums> sums_;
  std::vector<float> sum_;  // gradient and residual
  std::deque<Event> events_;
  uint64_t decisions_ = 0;
  uint64_t plans_ = 0;
  double measure_ms_ = 0;
  double decide_ms_ = 0;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_ADAPTATION_H_
