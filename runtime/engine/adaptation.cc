// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/adaptation.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compressors/errors/error_table.h"
#include "compressors/kernels/vector.h"
#include "proto/wire/text.h"

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

bool Adaptation::Measures(uint32_t tensor, uint64_t step) const {
  const auto interval = static_cast<uint64_t>(config_.policy.interval);
  const uint64_t at = step % interval;
  if (at + static_cast<uint64_t>(config_.policy.window) < interval) return false;
  // No rank measures a tensor twice.
  const auto turns = static_cast<uint64_t>(std::max<int64_t>(group_.size(), config_.policy.window));
  return (tensor + at) % turns == static_cast<uint64_t>(group_.rank());
}

void Adaptation::Prepare(absl::Span<const std::unique_ptr<Tensor>> tensors) {
  if (policy_ != nullptr && tensors_ == tensors.size()) return;
  std::vector<policy::TensorInfo> infos;
  for (const std::unique_ptr<Tensor>& tensor : tensors) infos.push_back(InfoOf(*tensor));
  policy_ = std::make_unique<policy::AdaptivePolicy>(config_, group_.size(), infos);
  tensors_ = tensors.size();
  sums_.assign(tensors_, {});
  for (size_t t = 0; t < tensors_; ++t) {
    const policy::Candidates& candidates = policy_->candidates()[t];
    if (!candidates.Fixed()) sums_[t].squared_error.assign(candidates.all.size(), 0.0);
  }
}

absl::Status Adaptation::Measure(absl::Span<const std::unique_ptr<Tensor>> tensors, Tensor* tensor,
                                 absl::Span<const float> gradient) {
  Prepare(tensors);
  const policy::Candidates& candidates = policy_->candidates()[tensor->id];
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
  for (size_t k = 0; k < candidates.all.size();) {
    // Candidates of a codec are neighbours.
    const wire::Codec codec = candidates.all[k].row.codec;
    std::vector<wire::CodecParams> settings;
    while (k + settings.size() < candidates.all.size() &&
           candidates.all[k + settings.size()].row.codec == codec) {
      settings.push_back(candidates.all[k + settings.size()].row.params);
    }
    const absl::StatusOr<std::vector<double>> errors = SquaredErrors(codec, settings, sum_, shape);
    if (!errors.ok()) return errors.status();
    for (size_t i = 0; i < errors->size(); ++i) sums.squared_error[k + i] += (*errors)[i];
    k += settings.size();
  }
  sums.count += 1;
  sums.norm += kernels::FiniteNorm(gradient);
  measure_ms_ += MillisecondsSince(begin);
  return absl::OkStatus();
}

absl::Status Adaptation::AddUpOverRanks(std::chrono::milliseconds patience) {
  std::vector<double> all;
  for (const Sums& sums : sums_) {
    if (sums.squared_error.empty()) continue;
    all.push_back(sums.count);
    all.push_back(sums.norm);
    all.insert(all.end(), sums.squared_error.begin(), sums.squared_error.end());
  }
  if (all.empty()) return absl::OkStatus();
  transport::OperationOr sum =
      group_.Allreduce(all.data(), all.data(), all.size(), wire::DType::kFloat64, {});
  if (!sum.ok()) return sum.status();
  if (absl::Status status = (*sum)->Wait(patience); !status.ok()) return status;
  size_t at = 0;
  for (Sums& sums : sums_) {
    if (sums.squared_error.empty()) continue;
    sums.count = all[at++];
    sums.norm = all[at++];
    for (double& error : sums.squared_error) error = all[at++];
  }
  return absl::OkStatus();
}

std::string Adaptation::Ask(absl::Span<const std::unique_ptr<Tensor>> tensors) {
  std::vector<policy::TensorStatistics> statistics(tensors_);
  for (size_t t = 0; t < tensors_; ++t) {
    const Sums& sums = sums_[t];
    if (sums.squared_error.empty() || sums.count <= 0) continue;
    statistics[t].norm = sums.norm / sums.count;
    for (const double error : sums.squared_error) statistics[t].squared_error.push_back(error / sums.count);
  }
  std::vector<const wire::PlanRow*> rows;
  for (const std::unique_ptr<Tensor>& tensor : tensors) rows.push_back(&tensor->planned);
  policy_->Assume(rows);
  const absl::StatusOr<policy::AdaptiveOutcome> outcome = policy_->Step(statistics);
  if (!outcome.ok()) {
    return Json{{"changed", false}, {"why", absl::StrCat("nothing decided: ", outcome.status().message())}}
        .dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  Json told{{"changed", outcome->changed},
            {"why", outcome->why},
            {"bytes", outcome->bytes},
            {"uniform_bytes", outcome->uniform_bytes},
            {"error", outcome->error},
            {"budget", outcome->budget},
            {"lower_bound", outcome->lower_bound},
            {"way", policy::Name(outcome->way)}};
  if (outcome->changed) {
    told["choice"] = policy_->choice();
    Json reasons = Json::array();
    for (const wire::PlanRow& row : policy_->rows()) reasons.push_back(row.reason.substr(0, kMostReason));
    told["reasons"] = std::move(reasons);
  }
  return told.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<std::string> Adaptation::HearRank0(std::string mine, std::chrono::milliseconds patience) {
  const size_t most = kMostHead + tensors_ * kMostOfATensor;
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
    absl::Span<const std::unique_ptr<Tensor>> tensors, uint64_t step, std::chrono::milliseconds patience) {
  const Clock::time_point begin = Clock::now();
  Prepare(tensors);
  if (absl::Status status = AddUpOverRanks(patience); !status.ok()) return status;
  const absl::StatusOr<std::string> text = HearRank0(group_.rank() == 0 ? Ask(tensors) : "", patience);
  if (!text.ok()) return text.status();
  for (Sums& sums : sums_) {
    sums.count = 0;
    sums.norm = 0;
    std::fill(sums.squared_error.begin(), sums.squared_error.end(), 0.0);
  }

  const Json told = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
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
              .way = words("way"),
              .changes = {}};
  std::optional<std::vector<wire::PlanRow>> rows;
  if (event.changed) {
    const auto choice = told.find("choice");
    const auto reasons = told.find("reasons");
    if (choice == told.end() || reasons == told.end() || !choice->is_array() || !reasons->is_array() ||
        choice->size() != tensors_ || reasons->size() != tensors_) {
      return wrong();
    }
    rows.emplace();
    for (size_t t = 0; t < tensors_; ++t) {
      const std::vector<policy::Candidate>& all = policy_->candidates()[t].all;
      const Json& k = (*choice)[t];
      if (!k.is_number_unsigned() || k.get<uint64_t>() >= all.size() || !(*reasons)[t].is_string())
        return wrong();
      rows->push_back(all[k.get<size_t>()].row);
      rows->back().reason = (*reasons)[t].get<std::string>();
      if (wire::RowText(tensors[t]->planned) == wire::RowText(rows->back())) continue;
      event.changes.push_back(
          {tensors[t]->name, policy::SettingText(tensors[t]->planned), policy::SettingText(rows->back())});
    }
    ++plans_;
  }
  ++decisions_;
  if (events_.size() == kMostEvents) events_.pop_front();
  events_.push_back(std::move(event));
  decide_ms_ += MillisecondsSince(begin);
  return rows;
}

}  // namespace terse::engine
