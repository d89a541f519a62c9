// SPDX-License-Identifier: Apache-2.0
//
// Method `onebit_adam`: 1-bit Adam (Tang et al., ICML 2021, as DeepSpeed implements it). It has two stages.
//
//   warm-up      dense: m <- b1 m + (1 - b1) gbar,   v <- b2 v + (1 - b2) gbar^2
//   compressed   each rank sends m_i = b1 m + (1 - b1) g_i, compensated by its worker error W_i;
//                m <- what comes back, equal on all ranks;   v stays as it was
//   result       m / (sqrt(v) + eps); with adam.bias_correction m / (1 - b1^k) and v / (1 - b2^l) instead,
//                k and l being how often m and v were updated
//
// VarianceFreeze says when the group goes from one to the other. Freeze: v is frozen where it is. Unfreeze:
// the next applied exchange sends m_i + W_i exactly, v still frozen, and so hands on all that compression had
// kept back; then v moves again, from where it was frozen. A tensor whose v is all zero at the freeze (never
// used, or registered later) stays in a warm-up of its own until v has been updated with something as often
// as the group's was, or 1 / (1 - b2) times if that is less: with v = 0 a sign would move it by scale / eps.
//
// A tensor that is dense by plan stays in the warm-up for ever: exact Adam. With one rank, where all are
// dense, those that more ranks would compress freeze v like the others. Terse adds the variance floor: in the
// compressed stage v_j counts as max(v_j, variance_floor * mean(v)), because a sign gives every coordinate
// the same magnitude and one with v_j near zero would explode.
//
// `out` must be the mean over ranks: b1 m is in what every rank sends.
#ifndef TERSE_COMPRESSORS_METHODS_ONEBIT_ADAM_H_
#define TERSE_COMPRESSORS_METHODS_ONEBIT_ADAM_H_

#include <cstdint>

#include "compressors/memory/large_vector.h"
#include "compressors/methods/method.h"
#include "compressors/methods/residual_drain.h"

namespace terse {

// Memory: 3n floats (m, v and the exchange under way), n more for W once compressed. m and v are equal on
// all ranks, W is the rank's own.
class OneBitAdam final : public TensorMethod {
 public:
  OneBitAdam(const wire::Config::Adam& config, const TensorFacts& tensor);

  bool WantsDense(uint64_t step) const override { return !frozen_ || draining_; }
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
  void VisitCounters(const CounterVisitor& visit) override;

  void Freeze(uint64_t warmup_steps) override;
  void Unfreeze() override;
  double VarianceNorm() override;

 private:
  // What the exchange under way carries. A frozen tensor that has become dense sends m_i exactly, and with it
  // what waits in W: over several steps (residual_drain.h), or all at once before v moves again.
  enum class Stage { kIdle, kWarmUp, kCompressed, kFrozenDense };

  bool Freezes() const { return !tensor_.dense || tensor_.one_rank; }
  float VarianceFloor();
  double SumOfVariance();  // |v|_1
  bool FinishWarmUp(absl::Span<float> out);
  bool FinishFrozen(absl::Span<float> out);
  void CommitWarmUp();
  void CommitFrozen();
  void TakeMomentumBack();

  const wire::Config::Adam config_;
  TensorFacts tensor_;
  FloatVector m_;
  FloatVector v_;             // as frozen; the floor is applied where v is used
  FloatVector worker_error_;  // empty before the first compressed step
  FloatVector arrived_;       // gbar (v still moves) or the next m, until the step is resolved
  Stage stage_ = Stage::kIdle;
  ResidualDrain drain_;
  bool usable_ = false;      // arrived_ holds a finite result
  double next_sum_ = 0;      // |v|_1 when the warm-up step under way is committed
  double sum_ = -1.0;        // |v|_1; negative: to be computed from v
  bool frozen_ = false;      // v does not move
  bool draining_ = false;    // frozen only until W has been handed on, by one exchange
  uint64_t own_warmup_ = 0;  // steps with a gradient that a tensor without variance still needs
  uint64_t m_updates_ = 0;
  uint64_t v_updates_ = 0;
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
