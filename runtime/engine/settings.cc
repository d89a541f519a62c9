// SPDX-License-Identifier: Apache-2.0
//
// What a job may set while it runs: loss scale, global batch, masks, steps that passed by. A setting is only
// noted when it is made; the next agreement compares it, and what all ranks have set alike comes into force
// there.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/wire/text.h"
#include "runtime/engine/engine.h"

namespace terse::engine {

absl::Status Engine::SetLossScale(double scale) {
  if (!(scale > 0.0) || !std::isfinite(scale)) {
    return absl::InvalidArgumentError(absl::StrCat("loss scale ", scale, " is not a positive finite number"));
  }
  if (!outstanding_.empty()) {
    return absl::FailedPreconditionError(
        "requests are outstanding; wait for them before the loss scale changes");
  }
  loss_scale_ = scale;
  return absl::OkStatus();
}

absl::Status Engine::SetGlobalBatch(int64_t samples) {
  if (!broken_.ok()) return broken_;
  if (samples < 1) {
    return absl::InvalidArgumentError(absl::StrCat("a global batch of ", samples, " samples; at least 1"));
  }
  bool exchanged = !outstanding_.empty();
  for (const std::unique_ptr<Tensor>& tensor : tensors_) exchanged |= tensor->pending.active;
  if (exchanged && config_.method != wire::Method::kAllreduce) {
    return absl::FailedPreconditionError(
        "tensors have been exchanged in this step; call terse_step before the global batch changes");
  }
  next_global_batch_ = samples;
  return absl::OkStatus();
}

absl::Status Engine::SetExact(bool exact) {
  if (!broken_.ok()) return broken_;
  if (!outstanding_.empty()) {
    return absl::FailedPreconditionError("requests are outstanding; wait for them before exchanges change");
  }
  next_exact_ = exact;
  return absl::OkStatus();
}

absl::Status Engine::SetMask(uint32_t tensor, const uint8_t* flags) {
  if (!broken_.ok()) return broken_;
  if (config_.method != wire::Method::kOneBitAdam) {
    return absl::InvalidArgumentError(absl::StrCat("masks are for method onebit_adam; this group has method ",
                                                   wire::View(wire::Name(config_.method))));
  }
  if (tensor >= tensors_.size()) return CheckCall({.tensor = tensor});
  Tensor& target = *tensors_[tensor];
  if (!outstanding_.empty() || target.pending.active) {
    return absl::FailedPreconditionError(
        absl::StrCat(NameOf(tensor), " is being exchanged in this step; set its mask after terse_step"));
  }
  Mask mask = flags == nullptr ? Mask() : Mask({flags, target.job_elements});
  if (!mask.all() && mask.kept() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(NameOf(tensor), ": the mask leaves every element out; leave the tensor out instead"));
  }
  // A sum, so that ranks may set masks in any order and correct them.
  const auto share = [&](uint64_t hash) { return hash * (2 * uint64_t{tensor} + 1); };
  masks_hash_ += share(mask.hash()) - share(target.next_mask.hash());
  target.next_mask = std::move(mask);
  return absl::OkStatus();
}

absl::Status Engine::SetStepsOutside(uint32_t tensor, int64_t steps) {
  if (!broken_.ok()) return broken_;
  if (tensor >= tensors_.size()) return CheckCall({.tensor = tensor});
  if (steps < 0)
    return absl::InvalidArgumentError(absl::StrCat(steps, " steps outside of the group; at least 0"));
  Tensor& target = *tensors_[tensor];
  if (outstanding_.contains(tensor) || done_.contains(tensor) || target.pending.active) {
    return absl::FailedPreconditionError(absl::StrCat(
        NameOf(tensor),
        " is being exchanged in this step; tell of steps outside of the group after terse_step"));
  }
  // A sum, so that ranks may tell in any order and correct themselves.
  const auto share = [&](uint64_t count) { return count * 0x9e3779b97f4a7c15u * (2 * uint64_t{tensor} + 1); };
  outside_hash_ += share(static_cast<uint64_t>(steps)) - share(target.steps_outside);
  target.steps_outside = static_cast<uint64_t>(steps);
  return absl::OkStatus();
}

void Engine::ApplySettings() {
  exact_ = next_exact_;
  if (next_global_batch_ != global_batch_) {
    // The first one says what the batch is, not that it has changed.
    if (global_batch_ != 0 && freeze_ != nullptr) Unfreeze();
    global_batch_ = next_global_batch_;
  }
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    if (tensor->mask.hash() != tensor->next_mask.hash()) ApplyMask(tensor.get());
    if (tensor->steps_outside > 0) tensor->method->PassExact(std::exchange(tensor->steps_outside, 0));
  }
  outside_hash_ = 0;
}

void Engine::Unfreeze() {
  for (const std::unique_ptr<Tensor>& tensor : tensors_) {
    FoldServerError(tensor.get());
    tensor->method->Unfreeze();
  }
  freeze_->Restart();
}

// A new method of the new size takes over what the old one kept of the elements in both.
void Engine::ApplyMask(Tensor* tensor) {
  FoldServerError(tensor);
  std::map<std::string, FloatVector, std::less<>> kept;
  tensor->method->VisitState([&](std::string_view name, wire::MemoryRole, FloatVector* values) {
    if (values->empty()) return;
    FloatVector& full = kept[std::string(name)];
    full = *values;
    if (tensor->mask.all()) return;
    full.resize(tensor->job_elements);
    tensor->mask.Unpack(sizeof(float), values->data(), full.size(), full.data());
  });
  std::map<std::string, uint64_t, std::less<>> counters;
  tensor->method->VisitCounters(
      [&](std::string_view name, const uint64_t* value) { counters[std::string(name)] = *value; });

  tensor->worker_state.clear();  // of the old size
  tensor->server_state.clear();
  tensor->mask = tensor->next_mask;
  tensor->elements = tensor->mask.all() ? tensor->job_elements : tensor->mask.kept();
  tensor->method = MakeMethod(*tensor);
  tensor->method->VisitState([&](std::string_view name, wire::MemoryRole, FloatVector* values) {
    const auto found = kept.find(name);
    if (found == kept.end()) return;
    FloatVector& full = found->second;
    if (!tensor->mask.all()) tensor->mask.Pack(sizeof(float), full.data(), full.data());
    values->assign(full.begin(), full.begin() + static_cast<ptrdiff_t>(tensor->elements));
  });
  tensor->method->VisitCounters(
      [&](std::string_view name, uint64_t* value) { *value = counters.find(name)->second; });
  // Where the old elements had a variance and the new ones have none.
  if (freeze_->frozen()) tensor->method->Freeze(freeze_->state().warmup_steps);
}

double Engine::VarianceNorm() const {
  double norm = 0;
  for (const std::unique_ptr<Tensor>& tensor : tensors_) norm += tensor->method->VarianceNorm();
  return norm;
}

}  // namespace terse::engine
