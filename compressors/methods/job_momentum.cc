// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/job_momentum.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "compressors/methods/finite.h"

namespace terse {
namespace {

float Held(float value) {
  constexpr float kMost = std::numeric_limits<float>::max();
  return std::clamp(value, -kMost, kMost);
}

// next is computed as the job computes its buffer, so that what rounding does to both is the same.
uint32_t TurnPlain(size_t n, float m, const float* b, float* next, float* out) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    const float kept = m * b[i];
    const float a = out[i] - kept;
    bad |= IsFinite(a) ? 0u : 1u;
    next[i] = kept + a;
    out[i] = a;
  }
  return bad;
}

uint32_t TurnNesterov(size_t n, float m, const float* b, float* next, float* out) {
  const float part = 1.0f / (1.0f + m);
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    const float kept = m * b[i];
    const float a = (out[i] - m * kept) * part;
    bad |= IsFinite(a) ? 0u : 1u;
    next[i] = kept + a;
    out[i] = a;
  }
  return bad;
}

}  // namespace

JobMomentum::JobMomentum(double momentum, bool nesterov, double unit)
    : momentum_(static_cast<float>(momentum)),
      nesterov_(nesterov),
      over_(static_cast<float>((nesterov ? momentum : 1.0) * unit)) {}

bool JobMomentum::Turn(absl::Span<float> out) {
  buffer_.resize(out.size());
  next_.resize(out.size());
  const auto turn = nesterov_ ? TurnNesterov : TurnPlain;
  turned_ = turn(out.size(), momentum_, buffer_.data(), next_.data(), out.data()) == 0;
  return turned_;
}

void JobMomentum::Resolve(double applied, FloatVector* waiting) {
  if (!std::exchange(turned_, false) || applied <= 0) return;
  if (applied >= 1) {
    buffer_.swap(next_);
    return;
  }
  waiting->resize(buffer_.size());
  const auto share = static_cast<float>(applied);
  const auto over = static_cast<float>((1.0 - applied) * over_);
  const float* next = next_.data();
  float* b = buffer_.data();
  float* v = waiting->data();
  for (size_t i = 0; i < buffer_.size(); ++i) {
    const float kept = momentum_ * b[i];
    v[i] = Held(v[i] - over * kept);
    b[i] = kept + share * (next[i] - kept);
  }
}

void JobMomentum::PassExact(uint64_t steps, FloatVector* u, FloatVector* v) {
  // By multiplication: std::pow need not be the same on all ranks' machines.
  constexpr double kNothing = 1e-60;
  double power = 1.0;  // m^steps
  double sum = 0.0;    // m + m^2 + ... + m^steps
  for (uint64_t step = 0; step < steps && power > kNothing; ++step) {
    power *= momentum_;
    sum += power;
  }
  const auto left = static_cast<float>(power);
  if (!v->empty()) {
    buffer_.resize(v->size());  // none yet where the state is that of a job without momentum
    const auto moved = static_cast<float>(sum);
    for (size_t i = 0; i < v->size(); ++i) {
      (*v)[i] = Held((*v)[i] + moved * ((*u)[i] - over_ * buffer_[i]));
    }
  }
  for (float& x : buffer_) x *= left;
  for (float& x : *u) x *= left;
}

}  // namespace terse
