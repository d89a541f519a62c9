// SPDX-License-Identifier: Apache-2.0
//
// Method `onebit_adam`: 1-bit Adam (Tang et al., ICML 2021, as DeepSpeed implements it). It has two stages.
//
//   warm-up      dense: m <- b1 m + (1 - b1) gbar,   v <- b2 v + (1 - b2) gbar^2
//   compressed   each rank sends m_i = b1 m + (1 - b1) g_i, compensated by its worker error W_i;
//                m <- what comes back, equal on all ranks;   v stays as it was
//   result       m / (sqrt(v) + eps), without bias correction (the published code has none)
//
// A tensor that is dense by plan stays in the warm-up for ever: exact Adam. Terse adds the variance floor:
// in the compressed stage v_j counts as max(v_j, variance_floor * mean(v)), because a sign gives every
// coordinate the same magnitude and one with v_j near zero would explode. A tensor without any gradient
// in its warm-up has mean(v) = 0, and so eps alone as denominator, as published.
//
// `out` must be the mean over ranks: b1 m is in what every rank sends.
#ifndef TERSE_COMPRESSORS_METHODS_ONEBIT_ADAM_H_
#define TERSE_COMPRESSORS_METHODS_ONEBIT_ADAM_H_

#include <cstdint>
#include <vector>

#include "compressors/methods/method.h"

namespace terse {

// Memory: 3n floats (m, v and the exchange under way), n more for W once compressed. m and v are equal on
// all ranks, W is the rank's own.
class OneBitAdam final : public TensorMethod {
 public:
  OneBitAdam(const wire::Config::Adam& config, const TensorFacts& tensor);

  bool WantsDense(uint64_t step) const override;
  absl::Span<const float> Before(bool dense, absl::Span<const float> gradient, absl::Span<float> scratch,
                                 bool* nonfinite) override;
  absl::Span<float> residual() override { return absl::MakeSpan(worker_error_); }
  bool AfterExchange(bool dense, absl::Span<float> out) override;

  // A clip scales the update that the caller applies, not the momentum, which is kept whole.
  double ReturnFraction(double applied) const override { return applied > 0 ? 0.0 : 1.0; }
  void Resolve(double applied) override;
  // A direction that fp16 cannot hold is no gradient that could wait.
  absl::Span<float> excess() override { return {}; }
  void Replan(const TensorFacts& tensor) override { tensor_ = tensor; }
  void VisitState(const Visitor& visit) override;

 private:
  // What the exchange under way carries. A frozen tensor that goes dense for a step sends m_i exactly; its
  // W waits for the next compressed step.
  enum class Stage { kIdle, kWarmUp, kCompressed, kFrozenDense };

  float VarianceFloor();
  bool FinishWarmUp(absl::Span<float> out);
  bool FinishFrozen(absl::Span<float> out);
  void CommitWarmUp();
  void TakeMomentumBack();

  const wire::Config::Adam config_;
  TensorFacts tensor_;
  std::vector<float> m_;
  std::vector<float> v_;             // as frozen; the floor is applied where v is used
  std::vector<float> worker_error_;  // empty before the first compressed step
  std::vector<float> arrived_;       // gbar (v still moves) or the next m, until the step is resolved
  Stage stage_ = Stage::kIdle;
  bool usable_ = false;  // arrived_ holds a finite result
  bool frozen_ = false;  // v does not move any more
  float floor_ = -1.0f;  // negative: to be computed from v
};

// Adam with decoupled weight decay: w <- w - learning_rate * (out + lambda w).
class OneBitAdamUpdate final : public ParameterUpdate {
 public:
  explicit OneBitAdamUpdate(const wire::Config::Adam& config) : config_(config) {}

  void Apply(absl::Span<const float> out, double learning_rate, absl::Span<float> parameter) override;
  void VisitState(const TensorMethod::Visitor& visit) override {}

 private:
  const wire::Config::Adam config_;
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_ONEBIT_ADAM_H_
