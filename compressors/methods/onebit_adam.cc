// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/onebit_adam.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compressors/kernels/dispatch.h"
#include "compressors/methods/finite.h"
#include "compressors/methods/variance_freeze.h"

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

// base^n by multiplications alone: equal on all machines, which libm does not promise.
double Power(double base, uint64_t n) {
  double power = 1;
  while (n > 0) {
    if (n % 2 != 0) power *= base;
    base *= base;
    n /= 2;
  }
  return power;
}

// How much of its steady value a mean with this decay lacks no longer, after n updates from 0.
double Weight(double decay, uint64_t n) { return 1.0 - Power(decay, n); }

// The factors of bias correction; 1, which changes no bit, without it.
struct Correction {
  Correction(const wire::Config::Adam& config, uint64_t m_updates, uint64_t v_updates) {
    if (!config.bias_correction) return;
    m = static_cast<float>(1.0 / Weight(config.beta1, std::max<uint64_t>(m_updates, 1)));
    v = static_cast<float>(1.0 / Weight(config.beta2, std::max<uint64_t>(v_updates, 1)));
  }
  float m = 1.0f;
  float v = 1.0f;
};

double SumOf(absl::Span<const float> values) {
  return kernels::ActiveKernels()
      .onebit_sum(wire::ScaleNorm::kL1, values.data(), nullptr, values.size())
      .value;
}

}  // namespace

OneBitAdam::OneBitAdam(const wire::Config::Adam& config, const TensorFacts& tensor)
    : config_(config), tensor_(tensor), m_(tensor.elements), v_(tensor.elements), arrived_(tensor.elements) {}

void OneBitAdam::Freeze(uint64_t warmup_steps) {
  if (!Freezes()) return;
  draining_ = false;  // not exchanged since Unfreeze: what it kept back stays in W
  frozen_ = SumOfVariance() > 0 && own_warmup_ == 0;
  if (!frozen_ && own_warmup_ == 0)
    own_warmup_ = std::clamp<uint64_t>(warmup_steps, 1, VarianceFreeze::Memory(config_));
}

void OneBitAdam::Unfreeze() {
  own_warmup_ = 0;
  draining_ = frozen_ && (!tensor_.dense || !worker_error_.empty());
  frozen_ = draining_;
}

double OneBitAdam::VarianceNorm() {
  if (!Freezes()) return 0.0;
  const bool moves = stage_ == Stage::kWarmUp && usable_;
  const uint64_t updates = v_updates_ + (moves ? 1 : 0);
  return updates == 0 ? 0.0 : (moves ? next_sum_ : SumOfVariance()) / Weight(config_.beta2, updates);
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
  if (dense && draining_) {
    for (size_t i = 0; i < worker_error_.size(); ++i) send[i] += worker_error_[i];
  }
  return scratch.first(tensor_.elements);
}

double OneBitAdam::SumOfVariance() {
  if (sum_ < 0) sum_ = SumOf(v_);
  return sum_;
}

float OneBitAdam::VarianceFloor() {
  const double mean = v_.empty() ? 0 : SumOfVariance() / static_cast<double>(v_.size());
  return static_cast<float>(config_.variance_floor * mean);
}

bool OneBitAdam::AfterExchange(bool dense, absl::Span<float> out) {
  usable_ = stage_ == Stage::kWarmUp ? FinishWarmUp(out) : FinishFrozen(out);
  return usable_;
}

bool OneBitAdam::FinishWarmUp(absl::Span<float> out) {
  const Rates rates(config_);
  const Correction correction(config_, m_updates_ + 1, v_updates_ + 1);
  uint32_t bad = 0;
  next_sum_ = 0;
  // Chunk by chunk, so that the sum finds the new variances in the cache.
  float next[kernels::kSumChunk];
  for (size_t begin = 0; begin < tensor_.elements; begin += kernels::kSumChunk) {
    const size_t size = std::min(kernels::kSumChunk, tensor_.elements - begin);
    const float* m = m_.data() + begin;
    const float* v = v_.data() + begin;
    float* gradient = arrived_.data() + begin;
    float* result = out.data() + begin;
    for (size_t i = 0; i < size; ++i) {
      const float g = result[i];
      next[i] = rates.NextVariance(v[i], g);
      // The variance is not finite when g is not, nor when g * g is beyond fp32; then the result is to be
      // NaN.
      const float zero_or_nan = next[i] - next[i];
      const float direction =
          rates.NextMomentum(m[i], g) * correction.m / (std::sqrt(next[i] * correction.v) + rates.eps);
      gradient[i] = g;
      result[i] = direction + zero_or_nan;
      bad |= IsFinite(result[i]) ? 0u : 1u;
    }
    next_sum_ += SumOf({next, size});
  }
  return bad == 0;
}

bool OneBitAdam::FinishFrozen(absl::Span<float> out) {
  const float floor = VarianceFloor();
  const float eps = Rates(config_).eps;
  const Correction correction(config_, m_updates_ + 1, v_updates_);
  float* result = out.data();
  uint32_t bad = 0;
  for (size_t i = 0; i < tensor_.elements; ++i) {
    const float m = result[i];
    arrived_[i] = m;
    result[i] = m * correction.m / (std::sqrt(std::max(v_[i], floor) * correction.v) + eps);
    bad |= IsFinite(result[i]) ? 0u : 1u;
  }
  return bad == 0;
}

void OneBitAdam::Resolve(double applied) {
  if (applied > 0 && usable_) {
    ++m_updates_;
    if (stage_ == Stage::kWarmUp) {
      CommitWarmUp();
    } else {
      CommitFrozen();
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
  ++v_updates_;
  sum_ = next_sum_;
  if (own_warmup_ > 0 && sum_ > 0) frozen_ = --own_warmup_ == 0;
}

void OneBitAdam::CommitFrozen() {
  m_.swap(arrived_);
  if (stage_ != Stage::kFrozenDense || !draining_) return;
  worker_error_ = {};
  draining_ = false;
  frozen_ = false;
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
  sum_ = -1.0;  // the visitor may replace v
  visit("m", absl::MakeSpan(m_));
  visit("variance", absl::MakeSpan(v_));
  if (!worker_error_.empty()) visit("worker_error", absl::MakeSpan(worker_error_));
}

void OneBitAdam::VisitCounters(const CounterVisitor& visit) {
  uint64_t frozen = frozen_ ? 1 : 0;
  uint64_t draining = draining_ ? 1 : 0;
  visit("m_updates", &m_updates_);
  visit("variance_updates", &v_updates_);
  visit("frozen", &frozen);
  visit("draining", &draining);
  visit("own_warmup", &own_warmup_);
  frozen_ = frozen != 0;
  draining_ = draining != 0;
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
