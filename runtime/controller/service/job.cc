// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/service/job.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/wire/config.h"
#include "runtime/controller/policy/setting.h"

namespace terse::controller {
namespace {

constexpr int kMostTensors = 65536;
constexpr size_t kMostName = 1024;
constexpr size_t kMostReason = 1024;
constexpr size_t kLeastInstance = 16;
constexpr size_t kMostInstance = 64;
constexpr int kMostRanks = 1 << 24;
constexpr uint64_t kMostElements = uint64_t{1} << 48;
// A job is silent when it has missed three of its reports, and this at least.
constexpr int64_t kLeastSilenceUs = 10'000'000;
constexpr double kMissedReports = 3;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

bool IsLine(const std::string& text, size_t most) {
  return text.size() <= most &&
         std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; });
}

bool Good(double x) { return std::isfinite(x) && x >= 0; }

absl::StatusOr<wire::Config> ConfigOf(const std::string& text) {
  wire::Settings settings;
  size_t from = 0;
  while (from < text.size()) {
    const size_t end = std::min(text.find('\n', from), text.size());
    const std::string line = text.substr(from, end - from);
    from = end + 1;
    if (line.empty()) continue;
    const size_t equals = line.find(" = ");
    if (equals == std::string::npos) return Invalid("config: a line is \"key = value\"");
    if (absl::Status status =
            settings.Set(line.substr(0, equals), line.substr(equals + 3), wire::Origin::kFile);
        !status.ok()) {
      return Invalid("config: ", status.message());
    }
  }
  // What a rank is told of files is its own; what is checked across keys is what it opened with.
  return settings.config();
}

std::vector<policy::TensorInfo> InfosOf(const v1::RegisterJobRequest& registration) {
  std::vector<policy::TensorInfo> infos;
  for (const v1::TensorInfo& tensor : registration.tensors()) {
    policy::TensorInfo info{.id = static_cast<uint32_t>(infos.size()),
                            .name = tensor.name(),
                            .dtype = static_cast<wire::DType>(tensor.dtype()),
                            .elements = 1,
                            .shape = {tensor.shape().begin(), tensor.shape().end()}};
    for (const int64_t extent : info.shape) info.elements *= static_cast<uint64_t>(extent);
    infos.push_back(std::move(info));
  }
  return infos;
}

v1::Outcome OutcomeOf(const policy::AdaptiveOutcome& outcome) {
  v1::Outcome message;
  message.set_why(outcome.why);
  message.set_bytes(outcome.bytes);
  message.set_uniform_bytes(outcome.uniform_bytes);
  message.set_error(outcome.error);
  message.set_budget(outcome.budget);
  message.set_lower_bound(outcome.lower_bound);
  message.set_finish_ms(outcome.finish_ms);
  message.set_uniform_finish_ms(outcome.uniform_finish_ms);
  if (outcome.bytes > 0) message.set_way(std::string(policy::Name(outcome.way)));
  return message;
}

}  // namespace

absl::Status Job::CheckRegistration(const v1::RegisterJobRequest& r) {
  if (r.instance().size() < kLeastInstance || r.instance().size() > kMostInstance)
    return Invalid("instance: ", r.instance().size(), " bytes; 16 to 64 are allowed");
  if (r.name().empty() || !IsLine(r.name(), 255)) return Invalid("name: must be one line of 1 to 255 bytes");
  if (!IsLine(r.host(), 255)) return Invalid("host: must be one line of at most 255 bytes");
  if (r.world_size() < 1 || r.world_size() > kMostRanks) return Invalid("world_size: ", r.world_size());
  if (r.tensors_size() > kMostTensors)
    return Invalid("tensors: ", r.tensors_size(), "; at most ", kMostTensors);
  if (absl::StatusOr<wire::Config> config = ConfigOf(r.config()); !config.ok()) return config.status();
  std::set<std::string> names;
  for (int t = 0; t < r.tensors_size(); ++t) {
    const v1::TensorInfo& tensor = r.tensors(t);
    const auto wrong = [&](const auto&... parts) { return Invalid("tensors[", t, "]", parts...); };
    if (tensor.name().empty() || tensor.name().size() > kMostName ||
        tensor.name().find('\n') != std::string::npos)
      return wrong(".name: must be one line of 1 to 1024 bytes");
    if (!names.insert(tensor.name()).second) return wrong(".name: '", tensor.name(), "' is there twice");
    if (tensor.dtype() > 255 || wire::DTypeSize(static_cast<wire::DType>(tensor.dtype())) == 0)
      return wrong(".dtype: ", tensor.dtype(), " is none");
    if (tensor.shape_size() > 64) return wrong(".shape: ", tensor.shape_size(), " dimensions; at most 64");
    uint64_t elements = 1;
    for (const int64_t extent : tensor.shape()) {
      if (extent < 0 || (extent > 0 && elements > kMostElements / static_cast<uint64_t>(extent)))
        return wrong(".shape: no tensor is so large, or so small");
      elements *= static_cast<uint64_t>(extent);
    }
  }
  return absl::OkStatus();
}

Job::Job(StoredJob stored, Store* store)
    : id_(stored.id), instance_(stored.registration.instance()), store_(*store), stored_(std::move(stored)) {
  transport::MutexLock lock(mutex_);
  Rebuild();
}

void Job::Rebuild() {
  config_ = ConfigOf(stored_.registration.config()).value_or(wire::Config());
  controller_ = std::make_unique<policy::JobController>(config_, stored_.registration.world_size(),
                                                        InfosOf(stored_.registration));
  // What was commanded of tensors that are no longer there is dropped.
  const v1::Commands& commands = stored_.commands;
  for (const auto& [tensor, setting] : commands.pins())
    (void)controller_->Step(policy::PinTensor{tensor, setting});
  if (commands.alpha() > 0) (void)controller_->Step(policy::SetAlpha{commands.alpha()});
  (void)controller_->Step(policy::PauseAdaptation{commands.paused()});
  (void)controller_->Step(policy::ForceDense{commands.force_dense()});
}

v1::Commands Job::CommandsNow() const {
  v1::Commands commands;
  for (const auto& [tensor, setting] : controller_->pins()) (*commands.mutable_pins())[tensor] = setting;
  commands.set_alpha(controller_->alpha());
  commands.set_paused(controller_->paused());
  commands.set_force_dense(controller_->force_dense());
  return commands;
}

absl::Status Job::RegisterAgain(const v1::RegisterJobRequest& registration, int64_t now_us) {
  transport::MutexLock lock(mutex_);
  if (registration.instance() != instance_) return absl::AlreadyExistsError("another instance has this id");
  StoredJob next = stored_;
  next.registration = registration;
  next.reported_us = now_us;
  next.finished = false;
  if (absl::Status status = store_.SaveJob(next); !status.ok()) return status;
  stored_ = std::move(next);
  Rebuild();
  last_.reset();
  answer_.Clear();
  ++revision_;
  return absl::OkStatus();
}

absl::Status Job::CheckReport(const v1::ReportStepRequest& r) const {
  if (r.instance() != instance_)
    return absl::FailedPreconditionError(absl::StrCat("job ", id_, " is another instance; register first"));
  if (r.tensors_size() != stored_.registration.tensors_size()) {
    return Invalid("tensors: ", r.tensors_size(), ", where ", stored_.registration.tensors_size(),
                   " are registered; register again first");
  }
  if (last_.has_value() && (r.step() < last_->step() || r.version() < last_->version())) {
    return absl::FailedPreconditionError(
        absl::StrCat("a report of step ", r.step(), " and plan ", r.version(), " is behind step ",
                     last_->step(), " and plan ", last_->version(), ", which have been reported"));
  }
  if (r.since() > r.step()) return Invalid("since: ", r.since(), " is beyond step ", r.step());
  if (!Good(r.step_ms()) || !Good(r.measure_ms()))
    return Invalid("step_ms or measure_ms: not finite or negative");
  if (!IsLine(r.why(), kMostReason)) return Invalid("why: must be one line of at most 1024 bytes");
  for (int t = 0; t < r.tensors_size(); ++t) {
    const v1::TensorState& tensor = r.tensors(t);
    const auto wrong = [&](const auto&... parts) { return Invalid("tensors[", t, "]", parts...); };
    for (const double number : {tensor.norm(), tensor.residual_norm(), tensor.bytes_sent(),
                                tensor.dense_bytes(), tensor.compressed_ms(), tensor.dense_ms(),
                                tensor.ready_ms(), tensor.wire_ms(), tensor.codec_ms()}) {
      if (!Good(number)) return wrong(": a number is ", number);
    }
    if (!IsLine(tensor.reason(), kMostReason))
      return wrong(".reason: must be one line of at most 1024 bytes");
    if (!IsLine(tensor.path(), 64)) return wrong(".path: must be a word");
    const size_t candidates = controller_->candidates()[static_cast<size_t>(t)].all.size();
    if (tensor.squared_error_size() != 0 && static_cast<size_t>(tensor.squared_error_size()) != candidates)
      return wrong(".squared_error: ", tensor.squared_error_size(), " numbers for ", candidates,
                   " candidates");
    for (const double error : tensor.squared_error()) {
      if (!Good(error)) return wrong(".squared_error: ", error);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<policy::Measured> Job::MeasuredOf(const v1::ReportStepRequest& report) const {
  policy::Measured measured{.step = report.step(),
                            .activation_step = report.step() + static_cast<uint64_t>(config_.policy.interval),
                            .version = report.version(),
                            .rows = {},
                            .statistics = {}};
  const bool adaptive = config_.policy.name != wire::PolicyName::kStatic;
  for (int t = 0; t < report.tensors_size(); ++t) {
    const v1::TensorState& tensor = report.tensors(t);
    absl::StatusOr<wire::PlanRow> row =
        policy::RowOf(config_, stored_.registration.world_size(),
                      controller_->tensors()[static_cast<size_t>(t)], tensor.setting());
    if (!row.ok()) return Invalid("tensors[", t, "].setting: ", row.status().message());
    row->reason = tensor.reason();
    measured.rows.push_back(*std::move(row));
    if (!adaptive) continue;
    measured.statistics.push_back(
        {.squared_error = {tensor.squared_error().begin(), tensor.squared_error().end()},
         .norm = tensor.norm(),
         .ready_ms = tensor.ready_ms(),
         .times = {.wire_ms = tensor.wire_ms(), .codec_ms = tensor.codec_ms()}});
  }
  return measured;
}

// A plan that the job says is in force, and that the store does not know to be.
absl::Status Job::SaveTaken(const v1::ReportStepRequest& report) {
  absl::StatusOr<v1::Plan> known = store_.LoadPlan(id_, report.version());
  if (!known.ok() && known.status().code() != absl::StatusCode::kNotFound) return known.status();
  if (known.ok() && known->taken()) return absl::OkStatus();
  v1::Plan plan;
  if (known.ok()) plan = *std::move(known);
  plan.set_job_id(id_);
  plan.set_version(report.version());
  plan.set_step(report.since());
  plan.set_taken(true);
  // What the job says is what counts. Where these are other settings, an older order of this version has come
  // through after all, and the figures are not its own.
  bool as_offered = plan.rows_size() == report.tensors_size();
  for (int t = 0; as_offered && t < plan.rows_size(); ++t)
    as_offered = plan.rows(t).setting() == report.tensors(t).setting();
  if (!as_offered) {
    plan.clear_outcome();
    plan.mutable_outcome()->set_why(report.why());
    plan.set_decided_us(0);
  }
  plan.clear_rows();
  for (int t = 0; t < report.tensors_size(); ++t) {
    v1::PlanRow& row = *plan.add_rows();
    row.set_tensor(controller_->tensors()[static_cast<size_t>(t)].name);
    row.set_setting(report.tensors(t).setting());
    row.set_reason(report.tensors(t).reason());
  }
  return store_.SavePlan(plan);
}

absl::Status Job::SaveOffered(const policy::Action& action, int64_t now_us, v1::Order* order) {
  const wire::Plan& made = *action.plan;
  v1::Plan plan;
  plan.set_job_id(id_);
  plan.set_version(made.version);
  plan.set_step(made.activation_step);
  plan.set_decided_us(now_us);
  *plan.mutable_outcome() = OutcomeOf(action.outcome);
  order->set_follows(made.version - 1);
  *order->mutable_outcome() = plan.outcome();
  for (size_t t = 0; t < made.rows.size(); ++t) {
    v1::PlanRow& row = *plan.add_rows();
    row.set_tensor(controller_->tensors()[t].name);
    row.set_setting(policy::SettingWord(made.rows[t]));
    row.set_reason(made.rows[t].reason);
    order->add_settings(row.setting());
    order->add_reasons(row.reason());
  }
  return store_.SavePlan(plan);
}

absl::StatusOr<v1::ReportStepResponse> Job::Report(const v1::ReportStepRequest& report, int64_t now_us) {
  transport::MutexLock lock(mutex_);
  if (absl::Status status = CheckReport(report); !status.ok()) return status;
  // An answer that was lost on its way.
  if (last_.has_value() && report.step() == last_->step() && report.version() == last_->version())
    return answer_;
  absl::StatusOr<policy::Measured> measured = MeasuredOf(report);
  if (!measured.ok()) return measured.status();
  if (!last_.has_value() || report.version() != last_->version()) {
    if (absl::Status status = SaveTaken(report); !status.ok()) return status;
  }
  absl::StatusOr<std::vector<policy::Action>> actions = controller_->Step(*std::move(measured));
  if (!actions.ok()) return actions.status();
  const policy::Action& action = actions->front();
  v1::ReportStepResponse answer;
  if (action.plan.has_value()) {
    if (absl::Status status = SaveOffered(action, now_us, answer.mutable_order()); !status.ok())
      return status;
  }
  decision_ = action.outcome.why;
  last_ = report;
  answer_ = answer;
  stored_.reported_us = now_us;
  stored_.finished = false;
  ++revision_;
  return answer;
}

absl::Status Job::Finish(const std::string& instance, int64_t now_us) {
  transport::MutexLock lock(mutex_);
  if (instance != instance_)
    return absl::FailedPreconditionError(absl::StrCat("job ", id_, " is another instance"));
  if (absl::Status status = store_.SaveSeen(id_, now_us, true); !status.ok()) return status;
  stored_.reported_us = now_us;
  stored_.finished = true;
  ++revision_;
  return absl::OkStatus();
}

absl::StatusOr<v1::Commands> Job::Command(const policy::Event& command) {
  transport::MutexLock lock(mutex_);
  const v1::Commands before = stored_.commands;
  if (const auto actions = controller_->Step(command); !actions.ok()) return actions.status();
  stored_.commands = CommandsNow();
  if (absl::Status status = store_.SaveCommands(id_, stored_.commands); !status.ok()) {
    stored_.commands = before;
    Rebuild();
    return status;
  }
  ++revision_;
  return stored_.commands;
}

v1::JobState Job::StateNow(int64_t now_us) const {
  if (stored_.finished) return v1::JOB_STATE_FINISHED;
  const double between_us =
      last_.has_value() ? 1e3 * last_->step_ms() * static_cast<double>(config_.policy.interval) : 0;
  const double silence_us = std::max(static_cast<double>(kLeastSilenceUs), kMissedReports * between_us);
  const int64_t seen_us = std::max(stored_.reported_us, stored_.registered_us);
  return static_cast<double>(now_us - seen_us) > silence_us ? v1::JOB_STATE_SILENT : v1::JOB_STATE_RUNNING;
}

bool Job::Over(int64_t now_us) const {
  transport::MutexLock lock(mutex_);
  return StateNow(now_us) != v1::JOB_STATE_RUNNING;
}

uint64_t Job::revision() const {
  transport::MutexLock lock(mutex_);
  return revision_;
}

v1::Job Job::State(int64_t now_us, bool with_config) const {
  transport::MutexLock lock(mutex_);
  const v1::RegisterJobRequest& registration = stored_.registration;
  v1::Job job;
  job.set_id(id_);
  job.set_name(registration.name());
  job.set_host(registration.host());
  job.set_process(registration.process());
  job.set_world_size(registration.world_size());
  job.set_state(StateNow(now_us));
  job.set_registered_us(stored_.registered_us);
  job.set_reported_us(stored_.reported_us);
  job.set_tensors(static_cast<uint32_t>(registration.tensors_size()));
  job.set_policy(wire::FindConfigKey("policy.name")->get(config_));
  *job.mutable_commands() = CommandsNow();
  job.set_last_decision(decision_);
  if (with_config) job.set_config(registration.config());
  if (!last_.has_value()) return job;
  job.set_step(last_->step());
  job.set_skipped(last_->skipped());
  job.set_step_ms(last_->step_ms());
  job.set_plan_version(last_->version());
  job.set_plan_since(last_->since());
  job.set_plan_why(last_->why());
  job.set_measure_ms(last_->measure_ms());
  double sent = 0;
  double dense = 0;
  uint32_t compressed = 0;
  for (const v1::TensorState& tensor : last_->tensors()) {
    sent += tensor.bytes_sent();
    dense += tensor.dense_bytes();
    if (!tensor.path().empty() && tensor.path() != "none") ++compressed;
  }
  job.set_bytes_sent(sent);
  job.set_dense_bytes(dense);
  job.set_compressed_tensors(compressed);
  return job;
}

v1::ListTensorsResponse Job::Tensors() const {
  transport::MutexLock lock(mutex_);
  v1::ListTensorsResponse response;
  for (size_t t = 0; t < controller_->tensors().size(); ++t) {
    const policy::TensorInfo& info = controller_->tensors()[t];
    v1::Tensor& tensor = *response.add_tensors();
    tensor.set_name(info.name);
    tensor.set_dtype(static_cast<uint32_t>(info.dtype));
    for (const int64_t extent : info.shape) tensor.add_shape(extent);
    tensor.set_elements(info.elements);
    for (const policy::Candidate& candidate : controller_->candidates()[t].all)
      tensor.add_settings(policy::SettingWord(candidate.row));
    if (const auto pin = controller_->pins().find(info.name); pin != controller_->pins().end())
      tensor.set_pin(pin->second);
    if (!last_.has_value()) continue;
    *tensor.mutable_state() = last_->tensors(static_cast<int>(t));
    const v1::TensorState& state = tensor.state();
    for (int k = 0; k < state.squared_error_size(); ++k) {
      if (tensor.settings(k) == state.setting()) tensor.set_error(std::sqrt(state.squared_error(k)));
    }
  }
  return response;
}

}  // namespace terse::controller
