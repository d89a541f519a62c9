// SPDX-License-Identifier: Apache-2.0
//
// The controller of one job: a deterministic state machine, Step(event) -> actions, without clock, socket or
// thread. It is embedded in rank 0, and it is what terse-controller runs for each of its jobs. From the same
// events it makes the same plans, everywhere and in every run.
//
// Plans are made when statistics arrive, and only then: an operator's commands are kept until the next
// statistics, which are due at steps divisible by policy.interval. What a plan says of a tensor is, in rising
// precedence: the policy's choice (frozen while adaptation is paused), a pin, dense for all.
//
// The job is the authority on what is in force: each statistics event says by which plan and rows the job
// goes, so a controller that comes late or comes back goes on from there.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_JOB_CONTROLLER_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_JOB_CONTROLLER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/controller/policy/adaptive_policy.h"

namespace terse::policy {

// The job at a step that is divisible by its interval.
struct Measured {
  uint64_t step = 0;             // applied steps so far
  uint64_t activation_step = 0;  // of a plan that is made now
  uint32_t version = 0;          // of the plan in force
  std::vector<wire::PlanRow> rows;
  std::vector<TensorStatistics> statistics;  // empty: none; nothing but commands is carried out then
};
// nullopt: the policy chooses again.
struct PinTensor {
  std::string tensor;
  std::optional<std::string> setting;  // setting.h
};
struct SetAlpha {
  double alpha = 1;
};
struct PauseAdaptation {
  bool paused = true;
};
struct ForceDense {
  bool on = true;
};
using Event = std::variant<Measured, PinTensor, SetAlpha, PauseAdaptation, ForceDense>;

// What is to be done: a decision to be recorded, with the plan that it came to, if it changes one.
struct Action {
  AdaptiveOutcome outcome;
  std::optional<wire::Plan> plan;
};

class JobController {
 public:
  JobController(const wire::Config& config, int world_size, absl::Span<const TensorInfo> tensors);

  // One action for Measured, none for commands. Errors change nothing:
  //   INVALID_ARGUMENT     statistics or rows of other tensors, numbers that are none, an impossible setting
  //   NOT_FOUND            no tensor of this name
  absl::StatusOr<std::vector<Action>> Step(const Event& event);

  // By tensor; whoever measures errors needs them.
  const std::vector<Candidates>& candidates() const { return policy_.candidates(); }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  // Commands in force.
  const std::map<std::string, std::string>& pins() const { return pins_; }  // tensor, setting
  double alpha() const { return alpha_; }
  bool paused() const { return paused_; }
  bool force_dense() const { return force_dense_; }

 private:
  absl::StatusOr<std::vector<Action>> Take(const Measured& measured);
  absl::Status Pin(const PinTensor& command);
  // The policy's rows with commands over them.
  std::vector<wire::PlanRow> Overlaid() const;

  const wire::Config config_;
  const int world_size_;
  const std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t> by_name_;
  AdaptivePolicy policy_;
  std::map<std::string, std::string> pins_;
  std::map<size_t, wire::PlanRow> pinned_rows_;
  double alpha_;
  bool paused_ = false;
  bool force_dense_ = false;
};

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_JOB_CONTROLLER_H_
