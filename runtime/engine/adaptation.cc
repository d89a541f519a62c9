// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/adaptation.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compressors/errors/error_table.h"
#include "compressors/kernels/vector.h"
#include "proto/wire/text.h"
#include "runtime/controller/policy/setting.h"

namespace terse::engine {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostEvents = 1000;
constexpr size_t kMostReason = 160;
// Of a message from rank 0, beside what it says of each tensor.
constexpr size_t kMostHead = 4096;
constexpr size_t kMostOfATensor = kMostReason + 64;

double MillisecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

policy::TensorInfo InfoOf(const Tensor& tensor) {
  return {tensor.id, tensor.name, tensor.dtype, tensor.job_elements, tensor.shape};
}

}  // namespace

Adaptation::Adaptation(const wire::Config& config, transport::Group* group)
    : config_(config), group_(*group), last_(Clock::now()), step_begin_(last_) {}

Adaptation::~Adaptation() = default;

bool Adaptation::Wanted(const wire::Config& config, int world_size) {
  return (config.policy.name != wire::PolicyName::kStatic || !config.controller.address.empty()) &&
         world_size > 1 && !config.disable;
}

absl::Status Adaptation::Open(const OpenLink& open_link) {
  if (group_.rank() != 0) return absl::OkStatus();
  if (!config_.controller.address.empty()) {
    if (!open_link) return absl::InternalError("nothing can reach a controller from here");
    absl::StatusOr<std::unique_ptr<controller::Link>> link = open_link();
    if (!link.ok()) return link.status();
    link_ = *std::move(link);
  }
  if (config_.policy.name == wire::PolicyName::kReplay) {
    auto history = ReadHistory(config_);
    if (!history.ok()) return history.status();
    history_ = *std::move(history);
  }
  if (config_.policy.record.empty()) return absl::OkStatus();
  record_.open(config_.policy.record, std::ios::binary | std::ios::trunc);
  record_ << wire::kPlanHistoryHead << std::flush;
  if (record_) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("policy.record: cannot write ", config_.policy.record, ": ", std::strerror(errno)));
}

bool Adaptation::MeasuresErrors() const {
  return config_.policy.name != wire::PolicyName::kStatic && config_.policy.name != wire::PolicyName::kReplay;
}

bool Adaptation::Measures(uint32_t tensor, uint64_t step) const {
  if (!MeasuresErrors()) return false;
  const auto interval = static_cast<uint64_t>(config_.policy.interval);
  const uint64_t at = step % interval;
  if (at + static_cast<uint64_t>(config_.policy.window) < interval) return false;
  // No rank measures a tensor twice.
  const auto turns = static_cast<uint64_t>(std::max<int64_t>(group_.size(), config_.policy.window));
  return (tensor + at) % turns == static_cast<uint64_t>(group_.rank());
}

void Adaptation::Prepare(absl::Span<const std::unique_ptr<Tensor>> tensors) {
  const bool grown = infos_.size() != tensors.size();
  if (grown) {
    infos_.clear();
    candidates_.clear();
    for (const std::unique_ptr<Tensor>& tensor : tensors) {
      infos_.push_back(InfoOf(*tensor));
      candidates_.push_back(policy::CandidatesOf(config_, group_.size(), infos_.back()));
    }
    sums_.assign(infos_.size(), {});
    for (size_t t = 0; t < infos_.size() && MeasuresErrors(); ++t) {
      if (!candidates_[t].Fixed()) sums_[t].squared_error.assign(candidates_[t].all.size(), 0.0);
    }
  }
  if (group_.rank() != 0 || (source_ != nullptr && !grown)) return;
  if (link_ != nullptr) {
    source_ = RemoteSource(config_, group_.size(), infos_, link_.get());
  } else if (config_.policy.name == wire::PolicyName::kReplay) {
    source_ = ReplaySource(history_, infos_);
  } else {
    source_ = EmbeddedSource(config_, group_.size(), infos_);
  }
}

absl::Status Adaptation::Measure(absl::Span<const std::unique_ptr<Tensor>> tensors, Tensor* tensor,
                                 absl::Span<const float> gradient) {
  Prepare(tensors);
  const policy::Candidates& candidates = candidates_[tensor->id];
  if (candidates.Fixed()) return absl::OkStatus();
  const Clock::time_point begin = Clock::now();
  tensor->Materialize();
  const absl::Span<const float> residual = tensor->method->residual();
  sum_.assign(residual.begin(), residual.end());
  sum_.resize(gradient.size(), 0.0f);
  kernels::AddFinite(gradient, absl::MakeSpan(sum_));
  // Of a masked tensor only what takes part is exchanged, and that is no matrix.
  const std::vector<int64_t> flat = {static_cast<int64_t>(gradient.size())};
  const std::vector<int64_t>& shape = tensor->mask.all() ? tensor->shape : flat;

  Sums& sums = sums_[tensor->id];
  size_t k = 0;
  for (const policy::Family& family : policy::FamiliesOf(candidates)) {
    const absl::StatusOr<std::vector<double>> errors =
        SquaredErrors(family.codec, family.settings, sum_, shape);
    if (!errors.ok()) return errors.status();
    for (const double error : *errors) sums.squared_error[k++] += error;
  }
  sums.count += 1;
  sums.norm += kernels::FiniteNorm(gradient);
  measure_ms_ += MillisecondsSince(begin);
  return absl::OkStatus();
}

// How long the job has computed since the step began: without what it waited for exchanges, which depends on
// the plan.
void Adaptation::BeginBatch(absl::Span<Tensor* const> tensors) {
  if (!Timed()) return;
  batch_begin_ = Clock::now();
  const double ready_ms =
      std::chrono::duration<double, std::milli>(batch_begin_ - step_begin_).count() - exchanging_ms_;
  for (const Tensor* const tensor : tensors) {
    if (tensor->id >= sums_.size()) continue;
    sums_[tensor->id].ready_ms += ready_ms;
    sums_[tensor->id].exchanges += 1;
  }
}

void Adaptation::EndBatch() {
  if (Timed()) exchanging_ms_ += MillisecondsSince(batch_begin_);
}

void Adaptation::EndStep() {
  if (!Timed()) return;
  step_begin_ = Clock::now();
  exchanging_ms_ = 0;
}

void Adaptation::CountTimes(absl::Span<const std::unique_ptr<Tensor>> tensors) {
  for (size_t t = 0; t < sums_.size(); ++t) {
    Sums& sums = sums_[t];
    const TensorStats& now = tensors[t]->stats;
    sums.wire_ms = now.exchange_ms - sums.before.exchange_ms;
    sums.codec_ms = now.encode_ms + now.decode_ms - sums.before.encode_ms - sums.before.decode_ms;
    sums.before = now;
  }
}

absl::Status Adaptation::AddUpOverRanks(std::chrono::milliseconds patience) {
  const auto each = [this](const auto& number) {
    for (Sums& sums : sums_) {
      if (Timed()) {
        for (double* const time : {&sums.exchanges, &sums.ready_ms, &sums.wire_ms, &sums.codec_ms})
          number(time);
      }
      if (sums.squared_error.empty()) continue;
      number(&sums.count);
      number(&sums.norm);
      for (double& error : sums.squared_error) number(&error);
    }
  };
  std::vector<double> all;
  each([&all](const double* number) { all.push_back(*number); });
  if (all.empty()) return absl::OkStatus();
  transport::OperationOr sum =
      group_.Allreduce(all.data(), all.data(), all.size(), wire::DType::kFloat64, {});
  if (!sum.ok()) return sum.status();
  if (absl::Status status = (*sum)->Wait(patience); !status.ok()) return status;
  size_t at = 0;
  each([&](double* number) { *number = all[at++]; });
  return absl::OkStatus();
}

Situation Adaptation::SituationOf(absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step,
                                  uint64_t skipped) const {
  Situation now;
  now.measured.step = step;
  now.measured.activation_step = step;
  now.measured.version = static_cast<uint32_t>(plans_);
  if (MeasuresErrors()) now.measured.statistics.resize(infos_.size());
  for (size_t t = 0; t < infos_.size(); ++t) {
    now.measured.rows.push_back(tensors[t]->planned);
    const Sums& sums = sums_[t];
    if (Timed() && sums.exchanges > 0) {
      policy::TensorStatistics& statistics = now.measured.statistics[t];
      statistics.ready_ms = std::max(0.0, sums.ready_ms / sums.exchanges);
      statistics.times = {.wire_ms = std::max(0.0, sums.wire_ms / sums.exchanges),
                          .codec_ms = std::max(0.0, sums.codec_ms / sums.exchanges)};
    }
    if (sums.squared_error.empty() || sums.count <= 0) continue;
    policy::TensorStatistics& statistics = now.measured.statistics[t];
    statistics.norm = sums.norm / sums.count;
    for (const double error : sums.squared_error) statistics.squared_error.push_back(error / sums.count);
  }
  now.skipped = skipped;
  now.why = why_;
  now.since = since_;
  now.measure_ms = measure_ms_;
  if (step > last_step_) now.step_ms = MillisecondsSince(last_) / static_cast<double>(step - last_step_);
  if (link_ == nullptr) return now;
  for (const std::unique_ptr<Tensor>& tensor : tensors) {
    controller::TensorReport report;
    report.path = std::string(wire::Name(tensor->row.codec));
    tensor->Materialize();
    report.residual_norm = kernels::FiniteNorm(tensor->method->residual());
    report.bytes_sent = static_cast<double>(tensor->stats.bytes_sent);
    report.dense_bytes = static_cast<double>(tensor->stats.dense_bytes);
    if (tensor->timing != nullptr && tensor->timing->choice.last() != nullptr) {
      report.compressed_ms = tensor->timing->choice.last()->compressed_ms;
      report.dense_ms = tensor->timing->choice.last()->dense_ms;
    }
    now.tensors.push_back(std::move(report));
  }
  return now;
}

std::string Adaptation::Ask(const Situation& situation) {
  absl::StatusOr<Verdict> verdict = source_->Ask(situation);
  const auto text = [](const Json& told) {
    return told.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  if (verdict.ok() && !verdict->settings.empty()) {
    // What comes from elsewhere is held against what the tensors can have, before anybody hears of it.
    absl::Status status;
    if (verdict->settings.size() != infos_.size() || verdict->reasons.size() != infos_.size()) {
      status = absl::InvalidArgumentError(
          absl::StrCat("a plan of ", verdict->settings.size(), " tensors, where there are ", infos_.size()));
    }
    for (size_t t = 0; t < infos_.size() && status.ok(); ++t) {
      status = policy::RowOf(config_, group_.size(), infos_[t], verdict->settings[t]).status();
    }
    if (!status.ok()) verdict = status;
  }
  if (!verdict.ok()) {
    return text({{"changed", false}, {"why", absl::StrCat("nothing decided: ", verdict.status().message())}});
  }
  const policy::AdaptiveOutcome& outcome = verdict->outcome;
  Json told{{"changed", !verdict->settings.empty()},  {"why", outcome.why},     {"bytes", outcome.bytes},
            {"uniform_bytes", outcome.uniform_bytes}, {"error", outcome.error}, {"budget", outcome.budget},
            {"lower_bound", outcome.lower_bound},     {"way", verdict->way}};
  if (!verdict->settings.empty()) {
    told["settings"] = verdict->settings;
    for (std::string& reason : verdict->reasons) reason.resize(std::min(reason.size(), kMostReason));
    told["reasons"] = verdict->reasons;
  }
  return text(told);
}

absl::StatusOr<std::string> Adaptation::HearRank0(std::string mine, std::chrono::milliseconds patience) {
  const size_t most = kMostHead + infos_.size() * kMostOfATensor;
  if (group_.rank() != 0) mine.clear();
  std::string told(most, '\0');
  std::vector<transport::Buffer> to(static_cast<size_t>(group_.size()));
  to[0] = {.data = told.data(), .bytes = told.size()};
  std::vector<size_t> lengths(to.size(), 0);
  transport::OperationOr gather =
      group_.Allgatherv({.data = mine.data(), .bytes = mine.size()}, to, absl::MakeSpan(lengths), {});
  if (!gather.ok()) return gather.status();
  if (absl::Status status = (*gather)->Wait(patience); !status.ok()) return status;
  told.resize(lengths[0]);
  return told;
}

absl::StatusOr<std::optional<std::vector<wire::PlanRow>>> Adaptation::Decide(
    absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step, uint64_t skipped,
    std::chrono::milliseconds patience) {
  const Clock::time_point begin = Clock::now();
  Prepare(tensors);
  if (Timed()) CountTimes(tensors);
  if (absl::Status status = AddUpOverRanks(patience); !status.ok()) return status;
  Situation situation;
  std::string mine;
  if (group_.rank() == 0) {
    situation = SituationOf(tensors, step, skipped);
    mine = Ask(situation);
  }
  const absl::StatusOr<std::string> text = HearRank0(std::move(mine), patience);
  if (!text.ok()) return text.status();
  for (Sums& sums : sums_) {
    sums.count = 0;
    sums.norm = 0;
    sums.exchanges = 0;
    sums.ready_ms = 0;
    std::fill(sums.squared_error.begin(), sums.squared_error.end(), 0.0);
  }
  auto rows = TakeUp(tensors, step, *text);
  if (!rows.ok()) return rows;
  if (group_.rank() == 0) {
    if (rows->has_value()) {
      situation.measured.rows = **rows;
      situation.measured.version = static_cast<uint32_t>(plans_);
      situation.since = since_;
      situation.why = why_;
      for (size_t t = 0; t < situation.tensors.size(); ++t) {
        if (wire::RowText(tensors[t]->planned) != wire::RowText((**rows)[t]))
          situation.tensors[t].path = std::string(wire::Name((**rows)[t].codec));
      }
    }
    source_->Tell(situation);
  }
  last_ = Clock::now();
  last_step_ = step;
  decide_ms_ += MillisecondsSince(begin);
  return rows;
}

absl::StatusOr<std::optional<std::vector<wire::PlanRow>>> Adaptation::TakeUp(
    absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step, const std::string& text) {
  const Json told = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto wrong = [] { return absl::DataLossError("rank 0 told of a plan that is none"); };
  if (!told.is_object() || !told.contains("changed") || !told.at("changed").is_boolean()) return wrong();
  const auto number = [&](const char* key) {
    const auto found = told.find(key);
    return found != told.end() && found->is_number() ? found->get<double>() : 0.0;
  };
  const auto words = [&](const char* key) {
    const auto found = told.find(key);
    return found != told.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  Event event{.step = step,
              .changed = told.at("changed").get<bool>(),
              .why = words("why"),
              .bytes = number("bytes"),
              .uniform_bytes = number("uniform_bytes"),
              .error = number("error"),
              .budget = number("budget"),
              .lower_bound = number("lower_bound"),
              .finish_ms = number("finish_ms"),
              .uniform_finish_ms = number("uniform_finish_ms"),
              .way = words("way"),
              .changes = {}};
  std::optional<std::vector<wire::PlanRow>> rows;
  if (event.changed) {
    const auto settings = told.find("settings");
    const auto reasons = told.find("reasons");
    if (settings == told.end() || reasons == told.end() || !settings->is_array() || !reasons->is_array() ||
        settings->size() != infos_.size() || reasons->size() != infos_.size()) {
      return wrong();
    }
    rows.emplace();
    wire::PastPlan past{.version = static_cast<uint32_t>(plans_ + 1), .step = step, .changes = {}};
    for (size_t t = 0; t < infos_.size(); ++t) {
      if (!(*settings)[t].is_string() || !(*reasons)[t].is_string()) return wrong();
      const auto setting = (*settings)[t].get<std::string>();
      absl::StatusOr<wire::PlanRow> row = policy::RowOf(config_, group_.size(), infos_[t], setting);
      if (!row.ok()) return row.status();
      rows->push_back(*std::move(row));
      rows->back().reason = (*reasons)[t].get<std::string>();
      if (wire::RowText(tensors[t]->planned) == wire::RowText(rows->back())) continue;
      event.changes.push_back(
          {tensors[t]->name, policy::SettingText(tensors[t]->planned), policy::SettingText(rows->back())});
      past.changes.push_back({.tensor = tensors[t]->name, .setting = setting});
    }
    ++plans_;
    since_ = step;
    why_ = event.why;
    // A history that cannot be written is no reason to stop a job; it ends there.
    if (record_.is_open()) record_ << wire::PlanHistoryText(past) << std::flush;
  }
  ++decisions_;
  if (events_.size() == kMostEvents) events_.pop_front();
  events_.push_back(std::move(event));
  return rows;
}

}  // namespace terse::engine
