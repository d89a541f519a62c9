// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/onebit_adam.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compressors/methods/finite.h"

namespace terse {
namespace {

// The constants of Adam as the loops use them.
struct Rates {
  explicit Rates(const wire::Config::Adam& config)
      : b1(static_cast<float>(config.beta1)),
        b2(static_cast<float>(config.beta2)),
        new1(static_cast<float>(1.0 - config.beta1)),
        new2(static_cast<float>(1.0 - config.beta2)),
        // Never 0 in fp32: a coordinate without any gradient is to get 0, not 0 / 0.
        eps(std::max(static_cast<float>(config.eps), std::numeric_limits<float>::min())) {}
  float b1, b2, new1, new2, eps;

  float NextMomentum(float m, float g) const { return b1 * m + new1 * g; }
  float NextVariance(float v, float g) const { return b2 * v + new2 * (g * g); }
};

}  // namespace

OneBitAdam::OneBitAdam(const wire::Config::Adam& config, const TensorFacts& tensor)
    : config_(config), tensor_(tensor), m_(tensor.elements), v_(tensor.elements), arrived_(tensor.elements) {}

bool OneBitAdam::WantsDense(uint64_t step) const {
  return step < static_cast<uint64_t>(std::max<int64_t>(config_.freeze, 0));
}

absl::Span<const float> OneBitAdam::Before(bool dense, absl::Span<const float> gradient,
                                           absl::Span<float> scratch, bool* nonfinite) {
  usable_ = false;
  if (dense && !frozen_) {
    stage_ = Stage::kWarmUp;
    return gradient;
  }
  stage_ = dense ? Stage::kFrozenDense : Stage::kCompressed;
  if (!dense) {
    frozen_ = true;
    worker_error_.resize(tensor_.elements);
  }

  const Rates rates(config_);
  const float* g = gradient.data();  // spans check each index, which keeps a loop scalar
  float* send = scratch.data();
  uint32_t bad = 0;
  for (size_t i = 0; i < tensor_.elements; ++i) {
    const bool take = dense || IsFinite(g[i]);
    send[i] = rates.NextMomentum(m_[i], Select(take, g[i], 0.0f));
    bad |= take ? 0u : 1u;
  }
  if (bad != 0) *nonfinite = true;
  return scratch.first(tensor_.elements);
}

float OneBitAdam::VarianceFloor() {
  if (floor_ < 0) {
    // One accumulator in the order of the elements: the ranks' floors are equal bit by bit.
    double sum = 0;
    for (const float v : v_) sum += v;
    const double mean = v_.empty() ? 0 : sum / static_cast<double>(v_.size());
    floor_ = static_cast<float>(config_.variance_floor * mean);
  }
  return floor_;
}

bool OneBitAdam::AfterExchange(bool dense, absl::Span<float> out) {
  usable_ = stage_ == Stage::kWarmUp ? FinishWarmUp(out) : FinishFrozen(out);
  return usable_;
}

bool OneBitAdam::FinishWarmUp(absl::Span<float> out) {
  const Rates rates(config_);
  float* result = out.data();
  uint32_t bad = 0;
  for (size_t i = 0; i < tensor_.elements; ++i) {
    const float g = result[i];
    const float next_v = rates.NextVariance(v_[i], g);
    // next_v is not finite when g is not, nor when g * g is beyond fp32; then the result is to be NaN.
    const float zero_or_nan = next_v - next_v;
    const float direction = rates.NextMomentum(m_[i], g) / (std::sqrt(next_v) + rates.eps);
    arrived_[i] = g;
    result[i] = direction + zero_or_nan;
    bad |= IsFinite(result[i]) ? 0u : 1u;
  }
  return bad == 0;
}

bool OneBitAdam::FinishFrozen(absl::Span<float> out) {
  const float floor = VarianceFloor();
  const float eps = Rates(config_).eps;
  float* result = out.data();
  uint32_t bad = 0;
  for (size_t i = 0; i < tensor_.elements; ++i) {
    const float m = result[i];
    arrived_[i] = m;
    result[i] = m / (std::sqrt(std::max(v_[i], floor)) + eps);
    bad |= IsFinite(result[i]) ? 0u : 1u;
  }
  return bad == 0;
}

void OneBitAdam::Resolve(double applied) {
  if (applied > 0 && usable_) {
    if (stage_ == Stage::kWarmUp) {
      CommitWarmUp();
    } else {
      m_.swap(arrived_);
    }
  } else if (applied <= 0 && stage_ == Stage::kCompressed) {
    TakeMomentumBack();
  }
  stage_ = Stage::kIdle;
  usable_ = false;
}

void OneBitAdam::CommitWarmUp() {
  const Rates rates(config_);
  for (size_t i = 0; i < m_.size(); ++i) {
    m_[i] = rates.NextMomentum(m_[i], arrived_[i]);
    v_[i] = rates.NextVariance(v_[i], arrived_[i]);
  }
}

// The rank encoded c = b1 m + (1 - b1) g + W_old into q and kept W = c - q. The skip returned q, so W is
// c again. m was not replaced, and the next step sends b1 m anew; leaving it in W as well would count it
// twice. Without it W = W_old + (1 - b1) g: the gradient of the skipped step, delayed, and nothing else.
void OneBitAdam::TakeMomentumBack() {
  const float b1 = static_cast<float>(config_.beta1);
  for (size_t i = 0; i < worker_error_.size(); ++i) worker_error_[i] -= b1 * m_[i];
}

void OneBitAdam::VisitState(const Visitor& visit) {
  if (!tensor_.dense) worker_error_.resize(tensor_.elements);
  floor_ = -1.0f;  // the visitor may replace v
  visit("m", absl::MakeSpan(m_));
  visit("variance", absl::MakeSpan(v_));
  if (!worker_error_.empty()) visit("worker_error", absl::MakeSpan(worker_error_));
}

void OneBitAdamUpdate::Apply(absl::Span<const float> out, double learning_rate, absl::Span<float> parameter) {
  const float rate = static_cast<float>(learning_rate);
  const float lambda = static_cast<float>(config_.weight_decay);
  const float* from = out.data();
  float* w = parameter.data();
  for (size_t i = 0; i < parameter.size(); ++i) {
    w[i] -= rate * (from[i] + lambda * w[i]);
  }
}

}  // namespace terse
