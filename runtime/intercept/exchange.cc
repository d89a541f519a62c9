// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/exchange.h"

#include <algorithm>
#include <cmath>

namespace terse::intercept {
namespace {

// What ranks compare; never 0, which stands for a rank that cannot take part.
uint64_t HashOf(uint64_t settings, const std::vector<uint64_t>& period) {
  uint64_t hash = settings ^ 0xcbf29ce484222325u;
  for (const uint64_t signature : period) hash = (hash ^ signature) * 0x100000001b3u;
  return hash | 1;
}

// How many dense exchanges a tensor has before it rests, in which what waits goes along: a step drains as
// much of a residual as its gradient is long, and a residual grew by no more in each compressed one.
int64_t SettledAfter(int64_t compressed) { return std::clamp<int64_t>(compressed, 8, 64); }

// For how many calls: the longer dense has been faster, the more. Of a long job's calls next to none go
// through the group, and a change is still seen after some thousands.
int64_t RestAfter(int64_t dense_run) { return std::clamp<int64_t>(4 * dense_run, 64, 1024) - 1; }

template <typename T>
bool Finite(const T* values, int64_t n) {
  return std::all_of(values, values + n, [](T x) { return std::isfinite(x); });
}

}  // namespace

Exchange::Exchange(const TerseApi* api, std::string error, Settings settings, Ranks ranks)
    : api_(api), error_(std::move(error)), settings_(settings), ranks_(std::move(ranks)) {}

Exchange::Outcome Exchange::Before(const Place& place, const Call& call) {
  const Outcome outcome = Decide(place, call);
  // Under dgc, where these count, no tensor rests.
  if (outcome == Outcome::kPass && call.eligible && !running_ && tensors_.contains({call.signature, 0})) {
    ++exact_calls_[call.signature];
  }
  return outcome;
}

Exchange::Outcome Exchange::Decide(const Place& place, const Call& call) {
  if (broken_) return Outcome::kFailed;
  if (place.position < 0) {
    end_due_ |= std::exchange(running_, false);
    begin_due_ = false;
  } else if (place.position == 0) {
    end_due_ = true;
    begin_due_ = true;
    seen_.clear();
  }
  const int32_t number = call.eligible && group_ != nullptr ? seen_[call.signature]++ : 0;
  if (!call.may_wait) return Outcome::kPass;
  if (std::exchange(end_due_, false) && !EndStep()) return Outcome::kFailed;
  if (std::exchange(begin_due_, false) && !running_ && !Start(*place.period)) return Outcome::kPass;
  if (!call.eligible) return Outcome::kPass;
  if (!call.name.empty()) return RunNamed(call);
  if (running_) return Run(static_cast<size_t>(place.position), call);
  const terse_tensor_t tensor = KnownAs(call.signature, number);
  if (tensor < 0) return Outcome::kPass;
  // No period says where a step ends: it does where a tensor comes again.
  if (exchanged_.contains(tensor) && !EndStep()) return Outcome::kFailed;
  if (!SetExact(true)) return Outcome::kFailed;
  ++drained_calls_;
  return RunTensor(tensor, call);
}

terse_tensor_t Exchange::KnownAs(uint64_t signature, int32_t number) const {
  const auto known = known_.find(signature);
  if (!settings_.drains || known == known_.end()) return -1;
  return tensors_.find({signature, number % known->second})->second.id;
}

bool Exchange::SetExact(bool exact) {
  if (exact == exact_) return true;
  if (api_->group_set_exact(group_, exact ? 1 : 0) != TERSE_OK) {
    Fail("the change to exact exchanges");
    return false;
  }
  exact_ = exact;
  return true;
}

bool Exchange::Start(const std::vector<uint64_t>& period) {
  if (!OpenGroup(HashOf(settings_.hash, period)) || !SetExact(false)) return false;
  numbers_.clear();
  std::map<uint64_t, int32_t> seen;
  for (const uint64_t signature : period) numbers_.push_back(seen[signature]++);
  for (auto& [key, tensor] : tensors_) {
    const auto& [signature, number] = key;
    const auto passed = exact_calls_.find(signature);
    const auto each = seen.find(signature);
    if (passed == exact_calls_.end() || each == seen.end() || number >= each->second) continue;
    tensor.steps_outside += (passed->second + number) / each->second;
  }
  for (const auto& [signature, count] : seen) exact_calls_.erase(signature);
  running_ = true;
  return true;
}

bool Exchange::OpenGroup(uint64_t hash) {
  if (off_) return false;
  const uint64_t own = api_ == nullptr ? 0 : hash;
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
  return true;
}

terse_tensor_t Exchange::Register(const std::string& name, const Call& call) {
  terse_tensor_t tensor = -1;
  const terse_dtype_t dtype = call.is_double ? TERSE_FLOAT64 : TERSE_FLOAT32;
  if (api_->tensor_register(group_, name.c_str(), dtype, &call.count, 1, &tensor) == TERSE_OK) return tensor;
  Fail("registering " + name);
  return -1;
}

Exchange::Outcome Exchange::RunNamed(const Call& call) {
  auto named = named_.find(call.name);
  if (named == named_.end()) {
    // Ranks give names alike, so all come here; what the name belongs to is compared.
    std::vector<uint64_t> facts = {call.signature};
    for (const char c : call.name) facts.push_back(static_cast<unsigned char>(c));
    if (!OpenGroup(HashOf(settings_.hash, facts))) return Outcome::kPass;
    const terse_tensor_t tensor = Register(std::string(call.name), call);
    if (tensor < 0) return Outcome::kFailed;
    named = named_.emplace(call.name, Named{call.signature, tensor}).first;
  }
  const auto& [signature, tensor] = named->second;
  if (signature != call.signature) return Outcome::kPass;  // another tensor under the same name
  if (exchanged_.contains(tensor) && !EndStep()) return Outcome::kFailed;
  if (!SetExact(false)) return Outcome::kFailed;
  ++compressed_calls_;
  return RunTensor(tensor, call);
}

bool Exchange::EndStep() {
  if (!within_step_) return true;
  within_step_ = false;
  exchanged_.clear();
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
    tensor.id = Register(TensorName(call.type, call.count, call.form, number), call);
    if (tensor.id < 0) return Outcome::kFailed;
    // Numbers of a signature come in order, so these are 0, 1, ... to the last.
    known_[call.signature] = number + 1;
  }
  if (tensor.rest > 0) {
    --tensor.rest;
    ++rested_calls_;
    return Outcome::kPass;
  }
  if (tensor.steps_outside > 0 &&
      api_->tensor_set_steps_outside(group_, tensor.id, std::exchange(tensor.steps_outside, 0)) != TERSE_OK) {
    return Fail("telling of exact calls");
  }
  ++compressed_calls_;
  const Outcome outcome = RunTensor(tensor.id, call);
  int64_t dense_run = 0;
  if (outcome != Outcome::kDone || !settings_.drains ||
      api_->tensor_dense_run(group_, tensor.id, &dense_run) != TERSE_OK) {
    return outcome;
  }
  if (dense_run == 0) {
    ++tensor.compressed;
  } else if (dense_run >= SettledAfter(tensor.compressed)) {
    tensor.compressed = 0;
    tensor.rest = RestAfter(dense_run);
  }
  return outcome;
}

Exchange::Outcome Exchange::RunTensor(terse_tensor_t tensor, const Call& call) {
  if (api_->allreduce(group_, tensor, call.send, call.recv) != TERSE_OK) {
    return Fail("an all-reduce of " + std::to_string(call.count) + " elements");
  }
  within_step_ = true;
  exchanged_.insert(tensor);
  // A compressed result that is not finite is NaN throughout; of an exact one a single element may be.
  const int64_t looked_at = exact_ ? call.count : std::min<int64_t>(call.count, 1);
  nonfinite_ |= call.is_double ? !Finite(static_cast<const double*>(call.recv), looked_at)
                               : !Finite(static_cast<const float*>(call.recv), looked_at);
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
