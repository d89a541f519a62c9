// SPDX-License-Identifier: Apache-2.0
//
// What a policy that decides while the job trains needs of the data path. In the last steps before each
// decision (policy.window of every policy.interval) the ranks share the tensors out among themselves, others
// in each step and no rank one of them twice, and measure what each candidate would leave of the gradient
// with its residual (compressors/errors). Then these sums are added up over the ranks, rank 0 asks its
// source of plans (plan_source.h), and all ranks go over to what it says, at the same step.
//
// Owned and used by the engine alone. What it does on all ranks alike follows from applied steps and from the
// table of tensors, which ranks have compared.
#ifndef TERSE_RUNTIME_ENGINE_ADAPTATION_H_
#define TERSE_RUNTIME_ENGINE_ADAPTATION_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/controller/link/link.h"
#include "runtime/controller/policy/candidates.h"
#include "runtime/engine/plan_source.h"
#include "runtime/engine/tensor.h"
#include "transport/transport.h"

namespace terse::engine {

class Adaptation {
 public:
  // To rank 0's controller.
  using OpenLink = std::function<absl::StatusOr<std::unique_ptr<controller::Link>>()>;

  // Both outlive this.
  Adaptation(const wire::Config& config, transport::Group* group);
  ~Adaptation();

  // Whether a job with this configuration has one.
  static bool Wanted(const wire::Config& config, int world_size);
  // On rank 0: opens the files of the configuration, and the link, if the controller has an address.
  absl::Status Open(const OpenLink& open_link);

  // Whether this rank measures the tensor in this step, of which it is the exchange.
  bool Measures(uint32_t tensor, uint64_t step) const;
  // Of the gradient that is about to be exchanged, unscaled. `tensors` is the engine's table.
  absl::Status Measure(absl::Span<const std::unique_ptr<Tensor>> tensors, Tensor* tensor,
                       absl::Span<const float> gradient);

  // For policy.objective: time. Around the exchange of a batch, and at the end of a step.
  void BeginBatch(absl::Span<Tensor* const> tensors);
  void EndBatch();
  void EndStep();

  // Whether a decision comes after so many applied steps.
  bool Due(uint64_t step) const { return step % static_cast<uint64_t>(config_.policy.interval) == 0; }
  // The decision: the rows that all ranks are to go over to; nullopt: none. What was measured is forgotten.
  // Collective. An error of the transport leaves the group unusable.
  // `skipped`: steps of the job, so far.
  absl::StatusOr<std::optional<std::vector<wire::PlanRow>>> Decide(
      absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step, uint64_t skipped,
      std::chrono::milliseconds patience);

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
    double finish_ms = 0;
    double uniform_finish_ms = 0;
    std::string way;
    std::vector<Change> changes;
  };
  const std::deque<Event>& events() const { return events_; }  // the last of them
  uint64_t decisions() const { return decisions_; }
  uint64_t plans() const { return plans_; }
  double measure_ms() const { return measure_ms_; }  // of this rank
  double decide_ms() const { return decide_ms_; }    // with the wait for the others
  const controller::LinkState* link() const { return source_ == nullptr ? nullptr : source_->link(); }

 private:
  // Sums of one tensor, on this rank, then over all.
  struct Sums {
    double count = 0;
    double norm = 0;
    std::vector<double> squared_error;
    // For policy.objective: time.
    double exchanges = 0;
    double ready_ms = 0;
    double wire_ms = 0;
    double codec_ms = 0;
    TensorStats before;  // this rank's, at the last decision
  };

  // Candidates, sums and the source are of this table.
  void Prepare(absl::Span<const std::unique_ptr<Tensor>> tensors);
  bool MeasuresErrors() const;
  bool Timed() const { return MeasuresErrors() && config_.policy.objective == wire::Objective::kTime; }
  // This rank's exchanges since the last decision.
  void CountTimes(absl::Span<const std::unique_ptr<Tensor>> tensors);
  absl::Status AddUpOverRanks(std::chrono::milliseconds patience);
  Situation SituationOf(absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step,
                        uint64_t skipped) const;
  // What rank 0 tells the others, and what they make of it.
  std::string Ask(const Situation& situation);
  absl::StatusOr<std::string> HearRank0(std::string mine, std::chrono::milliseconds patience);
  absl::StatusOr<std::optional<std::vector<wire::PlanRow>>> TakeUp(
      absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step, const std::string& text);

  const wire::Config& config_;
  transport::Group& group_;
  std::unique_ptr<controller::Link> link_;
  std::map<uint64_t, wire::PastPlan> history_;
  std::ofstream record_;
  std::unique_ptr<PlanSource> source_;  // rank 0 alone
  std::vector<policy::TensorInfo> infos_;
  std::vector<policy::Candidates> candidates_;
  std::vector<Sums> sums_;
  std::vector<float> sum_;  // gradient and residual
  std::deque<Event> events_;
  uint64_t decisions_ = 0;
  uint64_t plans_ = 0;
  uint64_t since_ = 0;  // the step of the last plan
  std::string why_ = "the configured plan";
  double measure_ms_ = 0;
  double decide_ms_ = 0;
  std::chrono::steady_clock::time_point last_;
  uint64_t last_step_ = 0;
  // Of the running step: when it began, and how long exchanges have taken since.
  std::chrono::steady_clock::time_point step_begin_;
  std::chrono::steady_clock::time_point batch_begin_;
  double exchanging_ms_ = 0;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_ADAPTATION_H_
