// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/exchange.h"

#include <cmath>

namespace terse::intercept {
namespace {

// What ranks compare; never 0, which stands for a rank that cannot take part.
uint64_t HashOf(uint64_t settings, const std::vector<uint64_t>& period) {
  uint64_t hash = settings ^ 0xcbf29ce484222325u;
  for (const uint64_t signature : period) hash = (hash ^ signature) * 0x100000001b3u;
  return hash | 1;
}

}  // namespace

Exchange::Exchange(const TerseApi* api, std::string error, uint64_t settings, Ranks ranks)
    : api_(api), error_(std::move(error)), settings_(settings), ranks_(std::move(ranks)) {}

Exchange::Outcome Exchange::Before(const PeriodLearner& learner, const Call& call) {
  const Outcome outcome = Decide(learner, call);
  if (outcome == Outcome::kPass && call.eligible && tensors_.contains({call.signature, 0})) {
    ++exact_calls_[call.signature];
  }
  return outcome;
}

Exchange::Outcome Exchange::Decide(const PeriodLearner& learner, const Call& call) {
  if (broken_) return Outcome::kFailed;
  const int32_t position = learner.next_position();
  const bool fits = position >= 0 && learner.period()[static_cast<size_t>(position)] == call.signature;
  if (!fits) {
    if (!running_) return Outcome::kPass;
    running_ = false;
    return EndStep() ? Outcome::kPass : Outcome::kFailed;
  }
  if (position == 0) {
    if (!EndStep()) return Outcome::kFailed;
    if (!running_ && !Start(learner)) return Outcome::kPass;
  }
  if (!running_ || !call.eligible) return Outcome::kPass;
  return Run(static_cast<size_t>(position), call);
}

bool Exchange::Start(const PeriodLearner& learner) {
  if (off_) return false;
  const uint64_t own = api_ == nullptr ? 0 : HashOf(settings_, learner.period());
  // A rank that cannot take part says 0, so the others learn that something differs.
  if (!ranks_.same(own) || own == 0) {
    off_ = true;
    if (error_.empty())
      error_ =
          "the ranks differ in their configuration or in what calls they make, or one of them has no "
          "libterse";
    return false;
  }
  if (group_ == nullptr) {
    group_ = ranks_.open(&error_);
    if (!ranks_.same(group_ != nullptr ? 1 : 0) || group_ == nullptr) {
      off_ = true;
      if (error_.empty()) error_ = "another rank could not open the group";
      return false;
    }
  }
  numbers_.clear();
  std::map<uint64_t, int32_t> seen;
  for (const uint64_t signature : learner.period()) numbers_.push_back(seen[signature]++);
  for (auto& [key, tensor] : tensors_) {
    const auto& [signature, number] = key;
    const auto passed = exact_calls_.find(signature);
    const auto each = seen.find(signature);
    if (passed == exact_calls_.end() || each == seen.end() || number >= each->second) continue;
    tensor.exact_steps += (passed->second + number) / each->second;
  }
  for (const auto& [signature, count] : seen) exact_calls_.erase(signature);
  running_ = true;
  return true;
}

bool Exchange::EndStep() {
  if (!within_step_) return true;
  within_step_ = false;
  const double applied = std::exchange(nonfinite_, false) ? 0.0 : 1.0;
  if (api_->step(group_, applied) == TERSE_OK) return true;
  Fail("the end of a step");
  return false;
}

Exchange::Outcome Exchange::Run(size_t position, const Call& call) {
  const int32_t number = numbers_[position];
  const auto [found, fresh] = tensors_.try_emplace({call.signature, number});
  Tensor& tensor = found->second;
  if (fresh) {
    const std::string name =
        std::string(call.type) + "." + std::to_string(call.count) + "." + std::to_string(number);
    if (api_->tensor_register(group_, name.c_str(), TERSE_FLOAT32, &call.count, 1, &tensor.id) != TERSE_OK) {
      return Fail("registering " + name);
    }
  }
  if (tensor.exact_steps > 0 &&
      api_->tensor_set_exact_steps(group_, tensor.id, std::exchange(tensor.exact_steps, 0)) != TERSE_OK) {
    return Fail("telling of exact calls");
  }
  if (api_->allreduce(group_, tensor.id, call.send, call.recv) != TERSE_OK) {
    return Fail("an all-reduce of " + std::to_string(call.count) + " elements");
  }
  within_step_ = true;
  ++compressed_calls_;
  // A compressed result that is not finite is NaN throughout.
  nonfinite_ |= call.count > 0 && std::isnan(static_cast<const float*>(call.recv)[0]);
  return Outcome::kDone;
}

Exchange::Outcome Exchange::Fail(const std::string& doing) {
  broken_ = true;
  running_ = false;
  error_ = doing + " failed: " + api_->last_error();
  return Outcome::kFailed;
}

std::string Exchange::Close() {
  if (group_ == nullptr) return "";
  if (!broken_) EndStep();
  std::string report = Report();
  if (api_->group_close(group_) != TERSE_OK && error_.empty()) error_ = api_->last_error();
  group_ = nullptr;
  off_ = true;
  running_ = false;
  return report;
}

std::string Exchange::Report() const {
  char* text = nullptr;
  if (group_ == nullptr || api_->group_report(group_, &text) != TERSE_OK) return "";
  std::string report(text);
  api_->string_free(text);
  return report;
}

}  // namespace terse::intercept
