// SPDX-License-Identifier: Apache-2.0
//
// Who says, on rank 0, what the next plan is: the controller that is embedded there, one that runs elsewhere,
// or a file of plans that are repeated. Owned and used by the Adaptation of rank 0 alone.
#ifndef TERSE_RUNTIME_ENGINE_PLAN_SOURCE_H_
#define TERSE_RUNTIME_ENGINE_PLAN_SOURCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/plan_history.h"
#include "runtime/controller/link/link.h"
#include "runtime/controller/policy/job_controller.h"

namespace terse::engine {

// What is known on rank 0 when a decision is due.
struct Situation {
  policy::Measured measured;
  double step_ms = 0;
  double measure_ms = 0;
  uint64_t skipped = 0;
  std::string why;                                // of the plan in force
  uint64_t since = 0;                             // the step since which it is
  std::vector<controller::TensorReport> tensors;  // without what `measured` has
};

// A plan, or why there is none.
struct Verdict {
  policy::AdaptiveOutcome outcome;
  std::string way;                    // how it was found
  std::vector<std::string> settings;  // by tensor (policy/setting.h); empty: nothing changes
  std::vector<std::string> reasons;
};

class PlanSource {
 public:
  virtual ~PlanSource() = default;
  // An error is nothing to stop for: no plan then, and the error is why. Settings need not be possible ones.
  virtual absl::StatusOr<Verdict> Ask(const Situation& situation) = 0;
  // What is in force after that.
  virtual void Tell(const Situation&) {}
  // What goes into the report, or null.
  virtual const controller::LinkState* link() { return nullptr; }
};

// All of these are of one table of tensors.
std::unique_ptr<PlanSource> EmbeddedSource(const wire::Config& config, int world_size,
                                           absl::Span<const policy::TensorInfo> tensors);
std::unique_ptr<PlanSource> ReplaySource(std::map<uint64_t, wire::PastPlan> plans,
                                         absl::Span<const policy::TensorInfo> tensors);
// `link` outlives it.
std::unique_ptr<PlanSource> RemoteSource(const wire::Config& config, int world_size,
                                         absl::Span<const policy::TensorInfo> tensors,
                                         controller::Link* link);

// The plans of config.policy.history. An error names the file, and what is wrong with it.
absl::StatusOr<std::map<uint64_t, wire::PastPlan>> ReadHistory(const wire::Config& config);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_PLAN_SOURCE_H_
