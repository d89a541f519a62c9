// SPDX-License-Identifier: Apache-2.0
//
// `dense_when_faster`: takes the times of exchanges to the other ranks and the decisions to the tensors.
// Times travel in the announcements of the rounds that come anyway (agreement.h), so they cost no round of
// their own; what they lead to takes effect when the tensor's step has ended, by the same switch as a plan.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/controller/policy/static_policy.h"
#include "runtime/engine/engine.h"

namespace terse::engine {
namespace {

constexpr size_t kMostEvents = 1000;
constexpr size_t kMostTold = Announcement::kMostTimes / 2;  // exchanges in one round

float Told(double ms) {
  return ms >= 0 && std::isfinite(ms) ? static_cast<float>(ms) : Announcement::kNoTime;
}

// A rank that has no time leaves none to decide from.
double Slower(double a, float b) {
  return a < 0 || b < 0 ? policy::PathTimes::kMissing : std::max(a, static_cast<double>(b));
}

}  // namespace

void Engine::StartTiming(Tensor* tensor) {
  std::erase_if(untold_, [tensor](const Untold& untold) { return untold.tensor == tensor->id; });
  tensor->timing.reset();
  if (!config_.dense_when_faster || IsDense(tensor->planned.exchange)) return;
  const absl::Span<const int> nodes = group_->nodes();
  const bool one_machine = std::all_of(nodes.begin(), nodes.end(), [&](int n) { return n == nodes[0]; });
  tensor->timing = std::make_unique<PathTiming>(
      one_machine ? policy::kWorthWithinMachine : policy::kWorthBetweenMachines, tensor->elements);
}

void Engine::CountExchanges(absl::Span<Tensor* const> tensors) {
  for (Tensor* const tensor : tensors) {
    PathTiming* const timing = tensor->timing.get();
    if (timing == nullptr) continue;
    // A warm-up sends less from step to step. What was faster already is so all the more then.
    const uint64_t step = std::max(step_, tensor->applied);
    const double density = tensor->method->Params(step, tensor->planned.params).density;
    const bool settled = !timing->choice.trying() && timing->choice.path() == policy::Path::kCompressed;
    const bool less = density < timing->density;
    if (timing->density != 0 && timing->density != density && !(settled && less)) timing->choice.Restart();
    timing->density = density;
    if (!timing->choice.Exchanged() || timing->untold) continue;
    timing->untold = true;
    untold_.push_back({.tensor = tensor->id, .times = timing->times});
  }
}

absl::StatusOr<uint64_t> Engine::DenseRun(uint32_t tensor) const {
  if (tensor >= tensors_.size()) return CheckCall({.tensor = tensor});
  const Tensor& its = *tensors_[tensor];
  // Nobody else sums in rank order.
  if (config_.dense_deterministic) return 0;
  if (its.timing != nullptr) return its.timing->choice.dense_run();
  // Dense by plan, and nothing of it can wait.
  return its.was_compressed ? 0 : its.exchanges;
}

std::vector<float> Engine::TimesToTell() const {
  std::vector<float> times;
  for (size_t i = 0; i < std::min(untold_.size(), kMostTold); ++i) {
    times.push_back(Told(untold_[i].times.compressed_ms));
    times.push_back(Told(untold_[i].times.dense_ms));
  }
  return times;
}

absl::Status Engine::HearTimes(const Announcements& all) {
  const size_t told = std::min(untold_.size(), kMostTold);
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].times.size() == 2 * told) continue;
    return absl::DataLossError(absl::StrCat(group_->Describe(static_cast<int>(r)), " told ",
                                            all[r].times.size(), " times where ", 2 * told, " were due"));
  }
  bool decided = false;
  for (size_t i = 0; i < told; ++i) {
    Tensor& tensor = *tensors_[untold_.front().tensor];
    untold_.pop_front();
    tensor.timing->untold = false;
    policy::PathTimes slowest{.compressed_ms = 0, .dense_ms = 0};
    for (const Announcement& a : all) {
      slowest.compressed_ms = Slower(slowest.compressed_ms, a.times[2 * i]);
      slowest.dense_ms = Slower(slowest.dense_ms, a.times[2 * i + 1]);
    }
    const std::optional<policy::PathDecision> decision = tensor.timing->choice.Step(slowest);
    if (!decision.has_value()) continue;
    decided = true;
    ++path_decisions_;
    if (path_events_.size() == kMostEvents) path_events_.pop_front();
    path_events_.push_back(
        {.step = step_, .exchange = tensor.exchanges, .tensor = tensor.id, .decision = *decision});
  }
  const auto probes = [](const std::unique_ptr<Tensor>& tensor) {
    return tensor->timing != nullptr && tensor->timing->choice.trying();
  };
  if (decided && std::none_of(tensors_.begin(), tensors_.end(), probes)) runner_->EndProbes();
  return absl::OkStatus();
}

absl::Status Engine::TakePaths(absl::Span<Tensor* const> tensors) {
  bool switched = false;
  for (Tensor* const tensor : tensors) {
    if (tensor->timing == nullptr || tensor->timing->taken == tensor->timing->choice.revision()) continue;
    const policy::PathChoice& choice = tensor->timing->choice;
    tensor->timing->taken = choice.revision();
    const std::string why = choice.last() == nullptr ? "" : policy::Reason(*choice.last());
    const bool dense = choice.path() == policy::Path::kDense;
    wire::PlanRow row = tensor->planned;
    if (dense) {
      row = policy::DenseRow(config_, tensor->id, why);
    } else if (choice.trying()) {
      absl::StrAppend(&row.reason, "; on trial against dense");
    } else if (!why.empty()) {
      absl::StrAppend(&row.reason, "; ", why);
    }
    if (IsDense(tensor->row.exchange) != dense) {
      if (absl::Status status = Switch(row, tensor); !status.ok()) return status;
      switched = true;
    }
    tensor->row.reason = std::move(row.reason);
  }
  if (!switched) return absl::OkStatus();
  ++plan_version_;
  plan_hash_ = PlanHash();
  return absl::OkStatus();
}

}  // namespace terse::engine
