// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/job_controller.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/controller/policy/setting.h"

namespace terse::policy {
namespace {

constexpr char kPinned[] = "pinned by an operator";
constexpr char kForced[] = "dense for all by an operator";

bool IsCommand(const wire::PlanRow& row) { return row.reason == kPinned || row.reason == kForced; }

// A row that a command asks for says so, even where the policy had come to the same.
bool SameRow(const wire::PlanRow& a, const wire::PlanRow& b) {
  return wire::RowText(a) == wire::RowText(b) && (a.reason == b.reason || (!IsCommand(a) && !IsCommand(b)));
}

}  // namespace

JobController::JobController(const wire::Config& config, int world_size, absl::Span<const TensorInfo> tensors)
    : config_(config),
      world_size_(world_size),
      tensors_(tensors.begin(), tensors.end()),
      policy_(config, world_size, tensors),
      alpha_(config.policy.alpha) {
  for (size_t t = 0; t < tensors_.size(); ++t) by_name_.emplace(tensors_[t].name, t);
}

absl::StatusOr<std::vector<Action>> JobController::Step(const Event& event) {
  if (const auto* const measured = std::get_if<Measured>(&event)) return Take(*measured);
  absl::Status status;
  if (const auto* const pin = std::get_if<PinTensor>(&event)) {
    status = Pin(*pin);
  } else if (const auto* const budget = std::get_if<SetAlpha>(&event)) {
    status = policy_.SetAlpha(budget->alpha);
    if (status.ok()) alpha_ = budget->alpha;
  } else if (const auto* const pause = std::get_if<PauseAdaptation>(&event)) {
    paused_ = pause->paused;
  } else if (const auto* const dense = std::get_if<ForceDense>(&event)) {
    force_dense_ = dense->on;
  }
  if (!status.ok()) return status;
  return std::vector<Action>();
}

absl::Status JobController::Pin(const PinTensor& command) {
  const auto found = by_name_.find(command.tensor);
  if (found == by_name_.end())
    return absl::NotFoundError(absl::StrCat("the job has no tensor '", command.tensor, "'"));
  const size_t t = found->second;
  if (!command.setting.has_value()) {
    pins_.erase(command.tensor);
    pinned_rows_.erase(t);
    policy_.Hold(t, false);
    return absl::OkStatus();
  }
  absl::StatusOr<wire::PlanRow> row = RowOf(config_, world_size_, tensors_[t], *command.setting);
  if (!row.ok()) return row.status();
  row->reason = kPinned;
  pins_[command.tensor] = SettingWord(*row);
  pinned_rows_[t] = *std::move(row);
  policy_.Hold(t, true);
  return absl::OkStatus();
}

std::vector<wire::PlanRow> JobController::Overlaid() const {
  std::vector<wire::PlanRow> rows = policy_.rows();
  for (const auto& [t, row] : pinned_rows_) rows[t] = row;
  if (!force_dense_) return rows;
  for (wire::PlanRow& row : rows) {
    if (row.codec != wire::Codec::kNone) row = DenseRow(config_, row.tensor, kForced);
  }
  return rows;
}

absl::StatusOr<std::vector<Action>> JobController::Take(const Measured& measured) {
  if (measured.rows.size() != tensors_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows of ", measured.rows.size(), " tensors where there are ", tensors_.size()));
  }
  // Rows that a command made are not the policy's.
  policy_.Assume(measured.rows, [&](size_t t) {
    return force_dense_ || IsCommand(measured.rows[t]) || pinned_rows_.contains(t);
  });

  Action action;
  AdaptiveOutcome& outcome = action.outcome;
  if (config_.policy.name == wire::PolicyName::kStatic || measured.statistics.empty()) {
    outcome.why = "the configured plan";
  } else if (paused_) {
    outcome.why = "adaptation is paused by an operator";
  } else {
    absl::StatusOr<AdaptiveOutcome> stepped = policy_.Step(measured.statistics);
    if (!stepped.ok()) return stepped.status();
    outcome = *std::move(stepped);
  }
  const bool policy_changed = std::exchange(outcome.changed, false);

  std::vector<wire::PlanRow> rows = Overlaid();
  size_t changes = 0;
  for (size_t t = 0; t < rows.size(); ++t) changes += SameRow(rows[t], measured.rows[t]) ? 0 : 1;
  if (changes > 0) {
    outcome.changed = true;
    if (force_dense_) {
      outcome.why = kForced;
    } else if (!policy_changed) {
      outcome.why =
          absl::StrCat("an operator's command changed ", changes, changes == 1 ? " tensor" : " tensors");
    }
    action.plan = wire::Plan{.version = measured.version + 1,
                             .activation_step = measured.activation_step,
                             .rows = std::move(rows)};
  } else if (force_dense_) {
    outcome.why = kForced;
  }
  return std::vector<Action>{std::move(action)};
}

}  // namespace terse::policy
