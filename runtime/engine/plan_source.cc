// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/plan_source.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/wire/text.h"
#include "proto/wire/text_file.h"
#include "runtime/controller/policy/setting.h"

namespace terse::engine {
namespace {

// Of a history's text. Some 40 KB are a plan that changes a thousand tensors.
constexpr size_t kMostHistory = size_t{4} << 30;

class Embedded final : public PlanSource {
 public:
  Embedded(const wire::Config& config, int world_size, absl::Span<const policy::TensorInfo> tensors)
      : controller_(config, world_size, tensors) {}

  absl::StatusOr<Verdict> Ask(const Situation& situation) override {
    absl::StatusOr<std::vector<policy::Action>> actions = controller_.Step(situation.measured);
    if (!actions.ok()) return actions.status();
    policy::Action& action = actions->front();
    Verdict verdict{.outcome = std::move(action.outcome), .way = {}, .settings = {}, .reasons = {}};
    const absl::string_view way = wire::View(policy::Name(verdict.outcome.way));
    verdict.way = std::string(way);
    if (!action.plan.has_value()) return verdict;
    for (wire::PlanRow& row : action.plan->rows) {
      verdict.settings.push_back(policy::SettingWord(row));
      verdict.reasons.push_back(std::move(row.reason));
    }
    return verdict;
  }

 private:
  policy::JobController controller_;
};

class Replay final : public PlanSource {
 public:
  Replay(std::map<uint64_t, wire::PastPlan> plans, absl::Span<const policy::TensorInfo> tensors)
      : plans_(std::move(plans)) {
    for (size_t t = 0; t < tensors.size(); ++t) by_name_.emplace(tensors[t].name, t);
  }

  absl::StatusOr<Verdict> Ask(const Situation& situation) override {
    Verdict verdict;
    const auto found = plans_.find(situation.measured.step);
    if (found == plans_.end()) {
      verdict.outcome.why = "the history has no plan of this step";
      return verdict;
    }
    for (const wire::PlanRow& row : situation.measured.rows) {
      verdict.settings.push_back(policy::SettingWord(row));
      verdict.reasons.push_back(row.reason);
    }
    for (const wire::PastPlan::Change& change : found->second.changes) {
      const auto tensor = by_name_.find(change.tensor);
      if (tensor == by_name_.end()) {
        return absl::NotFoundError(absl::StrCat("plan ", found->second.version,
                                                " of the history is for tensor '", change.tensor,
                                                "', which this job has not"));
      }
      verdict.settings[tensor->second] = change.setting;
      verdict.reasons[tensor->second] = absl::StrCat("replay of plan ", found->second.version);
    }
    verdict.outcome.changed = true;
    verdict.outcome.why = absl::StrCat("replay of plan ", found->second.version);
    return verdict;
  }

 private:
  const std::map<uint64_t, wire::PastPlan> plans_;
  std::map<std::string, size_t> by_name_;
};

class Remote final : public PlanSource {
 public:
  Remote(const wire::Config& config, int world_size, absl::Span<const policy::TensorInfo> tensors,
         controller::Link* link)
      : link_(*link) {
    auto job = std::make_shared<controller::JobDescription>();
    job->name = config.controller.job;
    if (job->name.empty()) job->name = program_invocation_short_name;
    char host[256] = {};
    job->host = gethostname(host, sizeof host - 1) == 0 ? host : "";
    job->process = getpid();
    job->world_size = world_size;
    job->config = wire::AgreedText(config);
    job->tensors.assign(tensors.begin(), tensors.end());
    job_ = std::move(job);
  }

  absl::StatusOr<Verdict> Ask(const Situation& situation) override {
    // What has come since the last report.
    std::optional<controller::Order> order = link_.Take();
    Verdict verdict;
    controller::LinkState state = link_.state();
    if (!order.has_value()) {
      verdict.outcome.why = absl::StrCat("no order of the controller: ", state.what);
    } else if (order->follows != situation.measured.version) {
      verdict.outcome.why = absl::StrCat("the order that came is for plan ", order->follows, ", and ",
                                         situation.measured.version, " is in force");
    } else {
      verdict.outcome = {.changed = true,
                         .bytes = order->bytes,
                         .uniform_bytes = order->uniform_bytes,
                         .error = order->error,
                         .budget = order->budget,
                         .lower_bound = order->lower_bound,
                         .finish_ms = order->finish_ms,
                         .uniform_finish_ms = order->uniform_finish_ms,
                         .why = std::move(order->why)};
      verdict.way = std::move(order->way);
      verdict.settings = std::move(order->settings);
      verdict.reasons = std::move(order->reasons);
    }
    return verdict;
  }

  void Tell(const Situation& situation) override { link_.Post(job_, ReportOf(situation)); }

  const controller::LinkState* link() override {
    state_ = link_.state();
    return &state_;
  }

 private:
  static controller::JobReport ReportOf(const Situation& situation) {
    controller::JobReport report{.step = situation.measured.step,
                                 .version = situation.measured.version,
                                 .since = situation.since,
                                 .step_ms = situation.step_ms,
                                 .measure_ms = situation.measure_ms,
                                 .skipped = situation.skipped,
                                 .why = situation.why,
                                 .tensors = situation.tensors};
    for (size_t t = 0; t < report.tensors.size(); ++t) {
      controller::TensorReport& tensor = report.tensors[t];
      const wire::PlanRow& row = situation.measured.rows[t];
      tensor.setting = policy::SettingWord(row);
      tensor.reason = row.reason;
      if (situation.measured.statistics.empty()) continue;
      tensor.norm = situation.measured.statistics[t].norm;
      tensor.squared_error = situation.measured.statistics[t].squared_error;
      tensor.ready_ms = situation.measured.statistics[t].ready_ms;
      tensor.wire_ms = situation.measured.statistics[t].times.wire_ms;
      tensor.codec_ms = situation.measured.statistics[t].times.codec_ms;
    }
    return report;
  }

  controller::Link& link_;
  controller::LinkState state_;
  std::shared_ptr<const controller::JobDescription> job_;
};

}  // namespace

std::unique_ptr<PlanSource> EmbeddedSource(const wire::Config& config, int world_size,
                                           absl::Span<const policy::TensorInfo> tensors) {
  return std::make_unique<Embedded>(config, world_size, tensors);
}

std::unique_ptr<PlanSource> ReplaySource(std::map<uint64_t, wire::PastPlan> plans,
                                         absl::Span<const policy::TensorInfo> tensors) {
  return std::make_unique<Replay>(std::move(plans), tensors);
}

std::unique_ptr<PlanSource> RemoteSource(const wire::Config& config, int world_size,
                                         absl::Span<const policy::TensorInfo> tensors,
                                         controller::Link* link) {
  return std::make_unique<Remote>(config, world_size, tensors, link);
}

absl::StatusOr<std::map<uint64_t, wire::PastPlan>> ReadHistory(const wire::Config& config) {
  const std::string& path = config.policy.history;
  const absl::StatusOr<std::string> text = wire::ReadTextFile("policy.history", path, kMostHistory);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::map<uint64_t, wire::PastPlan>> plans = wire::ParsePlanHistory(*text);
  if (!plans.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("policy.history: ", path, ": ", plans.status().message()));
  }
  for (const auto& [step, plan] : *plans) {
    if (step % static_cast<uint64_t>(config.policy.interval) == 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "policy.history: ", path, ": plan ", plan.version, " is of step ", step, ", which policy.interval = ",
        config.policy.interval, " does not divide; set the interval of the job that wrote it"));
  }
  return plans;
}

}  // namespace terse::engine
