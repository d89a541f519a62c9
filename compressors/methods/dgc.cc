// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/dgc.h"

#include <cassert>
#include <cmath>

#include "compressors/kernels/vector.h"
#include "compressors/methods/density_warmup.h"
#include "compressors/methods/error_feedback.h"
#include "compressors/methods/finite.h"

namespace terse {
namespace {

// The loops take plain pointers: Debian's Abseil checks every index of a span, which keeps a loop scalar.

// The local gradient as the momentum gets it. A factor of 1 changes no bit.
struct Clipped {
  float operator[](size_t i) const { return factor * gradient[i]; }
  const float* gradient;
  float factor;
};
struct ClippedAndDecayed {
  float operator[](size_t i) const { return clipped[i] + decay * parameter[i]; }
  Clipped clipped;
  const float* parameter;
  float decay;
};

// The dense rules leave u alone, and what is not finite as it is.

template <typename Gradient>
void NextPlain(size_t n, float m, Gradient g, const float* u, float* next) {
  for (size_t i = 0; i < n; ++i) next[i] = m * u[i] + g[i];
}

template <typename Gradient>
void NextNesterov(size_t n, float m, Gradient g, const float* u, float* next, float* send) {
  for (size_t i = 0; i < n; ++i) {
    const float local = g[i];
    const float momentum = m * (u[i] + local);
    next[i] = momentum;
    send[i] = momentum + local;
  }
}

// How much larger than the norm of what the ranks' gradients are reduced to the norm of one of them is, if
// they are independent: sqrt(N) times a mean, 1/sqrt(N) of a sum.
double LocalNormRatio(wire::Reduce reduce, int world_size) {
  const double root = std::sqrt(static_cast<double>(world_size));
  return reduce == wire::Reduce::kMean ? root : 1.0 / root;
}

// What the ranks add of the parameter must come out as lambda once.
float LocalDecay(const wire::Config& config, int world_size) {
  if (config.dgc.decay != wire::DecayForm::kLocal) return 0.0f;
  const double times = config.reduce == wire::Reduce::kMean ? 1.0 : world_size;
  return static_cast<float>(config.dgc.weight_decay / times);
}

}  // namespace

Dgc::Dgc(const wire::Config& config, const TensorFacts& tensor)
    : config_(config.dgc),
      tensor_(tensor),
      most_norm_(config.dgc.clip * LocalNormRatio(config.reduce, tensor.world_size)),
      decay_(LocalDecay(config, tensor.world_size)) {
  if (!config_.job_momentum.has_value()) return;
  const double unit = config.reduce == wire::Reduce::kMean ? 1.0 : 1.0 / tensor.world_size;
  job_.emplace(*config_.job_momentum, config_.job_nesterov, unit);
}

wire::CodecParams Dgc::Params(uint64_t step, const wire::CodecParams& planned) const {
  wire::CodecParams params = planned;
  params.density = WarmedUpDensity(config_.warmup_steps, config_.warmup_density, step, planned.density);
  return params;
}

float Dgc::ClipFactor(absl::Span<const float> gradient) const {
  if (most_norm_ == 0) return 1.0f;
  const double norm = kernels::FiniteNorm(gradient);
  return norm > most_norm_ ? static_cast<float>(most_norm_ / norm) : 1.0f;
}

absl::Span<const float> Dgc::Before(bool dense, absl::Span<const float> gradient, absl::Span<float> scratch,
                                    bool* nonfinite) {
  if (dense) {
    const Clipped clipped{gradient.data(), ClipFactor(gradient)};
    if (decay_ == 0) return AddDense(clipped, scratch);
    assert(parameter_.size() == tensor_.elements);
    return AddDense(ClippedAndDecayed{clipped, parameter_.data(), decay_}, scratch);
  }
  const kernels::Momentum* momentum = nullptr;
  BeforeMomentum(gradient, scratch, nonfinite, &momentum);
  float* const sent = config_.nesterov ? scratch.data() : nullptr;
  if (!kernels::ActiveKernels().add_momentum(*momentum, gradient.data(), sent, gradient.size())) {
    *nonfinite = true;
  }
  if (config_.nesterov) return scratch.first(gradient.size());
  return u_;
}

template <typename Gradient>
absl::Span<const float> Dgc::AddDense(Gradient g, absl::Span<float> scratch) {
  const float m = static_cast<float>(config_.momentum);
  const size_t n = tensor_.elements;
  u_.resize(n);
  next_u_.resize(n);
  sent_.clear();
  pending_ = Pending::kMomentum;
  if (config_.nesterov) {
    NextNesterov(n, m, g, u_.data(), next_u_.data(), scratch.data());
    return drain_.Add(scratch.first(n), v_, scratch);
  }
  NextPlain(n, m, g, u_.data(), next_u_.data());
  return drain_.Add(next_u_, v_, scratch);
}

// v <- v + u is the codec's own compensation: it adds its residual, v, to what it sends.
absl::Span<const float> Dgc::BeforeMomentum(absl::Span<const float> gradient, absl::Span<float> /*scratch*/,
                                            bool* /*nonfinite*/, const kernels::Momentum** momentum) {
  u_.resize(tensor_.elements);
  v_.resize(tensor_.elements);
  FloatVector().swap(next_u_);
  sent_.clear();
  pending_ = Pending::kMask;
  assert(decay_ == 0 || parameter_.size() == tensor_.elements);
  momentum_ = {.momentum = static_cast<float>(config_.momentum),
               .scale = ClipFactor(gradient),
               .decay = decay_,
               .nesterov = config_.nesterov,
               .parameter = decay_ == 0 ? nullptr : parameter_.data(),
               .u = u_.data()};
  *momentum = &momentum_;
  return gradient;
}

void Dgc::AfterEncode(absl::Span<const uint32_t> sent) {
  if (config_.masking) sent_.assign(sent.begin(), sent.end());
}

bool Dgc::AfterExchange(bool dense, absl::Span<float> out) {
  bool finite = !dense || AllFinite(out);
  if (finite && job_.has_value()) finite = job_->Turn(out);
  if (!finite && dense) pending_ = Pending::kNothing;
  return finite;
}

void Dgc::Resolve(double applied) {
  drain_.Resolve(pending_ == Pending::kMomentum ? applied : 0.0, &v_);
  if (pending_ == Pending::kMomentum && applied > 0) u_.swap(next_u_);
  if (pending_ == Pending::kMask) {
    // The part of v that went home (1 - applied) keeps its momentum; after a skip nothing was sent.
    const float kept = static_cast<float>(1.0 - applied);
    for (const uint32_t i : sent_) u_[i] *= kept;
  }
  if (job_.has_value()) job_->Resolve(applied, &v_);
  pending_ = Pending::kNothing;
}

void Dgc::VisitState(const Visitor& visit) {
  visit("u", wire::MemoryRole::kOwn, &u_);
  visit("v", wire::MemoryRole::kOwn, &v_);
  if (job_.has_value()) job_->VisitState(visit);
}

DgcUpdate::DgcUpdate(const wire::Config::Dgc& config, size_t elements) : config_(config) {
  const bool buffered = config_.decay == wire::DecayForm::kBuffer;
  if (buffered && config_.weight_decay != 0) decay_.resize(elements);
}

void DgcUpdate::Apply(absl::Span<const float> out, double learning_rate, absl::Span<float> parameter) {
  if (decay_.empty()) {
    SgdUpdate().Apply(out, learning_rate, parameter);
    return;
  }
  const float rate = static_cast<float>(learning_rate);
  const float m = static_cast<float>(config_.momentum);
  const float lambda = static_cast<float>(config_.weight_decay);
  // The decay term is B, or with Nesterov lambda w + m B.
  const float of_w = config_.nesterov ? lambda : 0.0f;
  const float of_b = config_.nesterov ? m : 1.0f;
  const float* from = out.data();
  float* to = parameter.data();
  for (size_t i = 0; i < decay_.size(); ++i) {
    const float w = to[i];
    const float b = m * decay_[i] + lambda * w;
    decay_[i] = b;
    to[i] = w - rate * ((of_w * w + of_b * b) + from[i]);
  }
}

void DgcUpdate::VisitState(const TensorMethod::Visitor& visit) {
  if (!decay_.empty()) visit("decay", wire::MemoryRole::kReplicated, &decay_);
}

}  // namespace terse
