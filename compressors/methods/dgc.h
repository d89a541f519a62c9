// SPDX-License-Identifier: Apache-2.0
//
// Method `dgc`: Deep Gradient Compression (Lin et al., ICLR 2018, and the authors' code). Each rank keeps
// its own momentum u and what it has not sent yet, v (the codec's residual):
//
//   local      g <- g min(1, clip sqrt(N) / |g|)   and, with decay `local`, g <- g + lambda w
//   plain      u <- m u + g          v <- v + u
//   Nesterov   u <- m (u + g)        v <- v + u + g
//   send v at the selected places; there v <- what rounding cut off and, with masking, u <- 0
//
// The reduced result is the whole update of plain SGD: the caller has no momentum of its own. A dense
// exchange sends u (Nesterov: u + g) itself, so that its result, too, is the update, and u stays the
// rank's own. Sums being linear, that is momentum SGD on the reduced gradient; the tensor can go from
// dense to compressed and back, and the ranks' results are equal bit by bit, at any step.
//
// A job whose own optimizer has momentum (`dgc.job_momentum`) gets what makes that optimizer move by the
// update (job_momentum.h).
//
// What waits in v when the tensor goes dense drains over the next steps (residual_drain.h). Dense exchanges
// clip and decay like compressed ones. docs/methods.md derives the sqrt(N) and says where this differs from
// the paper.
#ifndef TERSE_COMPRESSORS_METHODS_DGC_H_
#define TERSE_COMPRESSORS_METHODS_DGC_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "compressors/kernels/kernels.h"
#include "compressors/memory/large_vector.h"
#include "compressors/methods/job_momentum.h"
#include "compressors/methods/method.h"
#include "compressors/methods/residual_drain.h"

namespace terse {

// Memory: 2n floats (u and v compressed, u and the pending u dense), and 4 bytes per place sent; under a
// momentum of the job's that of job_momentum.h.
class Dgc final : public TensorMethod {
 public:
  Dgc(const wire::Config& config, const TensorFacts& tensor);

  wire::CodecParams Params(uint64_t step, const wire::CodecParams& planned) const override;
  bool needs_parameter() const override { return decay_ != 0; }
  void SetParameter(absl::Span<const float> parameter) override { parameter_ = parameter; }
  absl::Span<const float> Before(bool dense, absl::Span<const float> gradient, absl::Span<float> scratch,
                                 bool* nonfinite) override;
  absl::Span<const float> BeforeMomentum(absl::Span<const float> gradient, absl::Span<float> scratch,
                                         bool* nonfinite, const kernels::Momentum** momentum) override;
  absl::Span<float> residual() override { return absl::MakeSpan(v_); }
  // Under a momentum of the job's a result that is cut would leave its buffer another than ours.
  absl::Span<float> excess() override { return job_.has_value() ? absl::Span<float>() : residual(); }
  void AfterEncode(absl::Span<const uint32_t> sent) override;
  bool AfterExchange(bool dense, absl::Span<float> out) override;
  bool AfterSparse(absl::Span<const uint32_t> support, absl::Span<float> out) override {
    return !job_.has_value() || job_->Turn(out, support);
  }
  size_t most_support() const override { return job_.has_value() ? job_->most_support(tensor_.elements) : 0; }
  void Resolve(double applied) override;
  void Replan(const TensorFacts& tensor) override { tensor_ = tensor; }
  void PassExact(uint64_t steps) override {
    if (job_.has_value()) job_->PassExact(steps, &u_, &v_);
  }
  void VisitState(const Visitor& visit) override;

 private:
  // What the exchange under way has to leave behind when it is resolved.
  enum class Pending { kNothing, kMomentum, kMask };

  // What clipping multiplies the gradient by; elements that are not finite count as 0.
  float ClipFactor(absl::Span<const float> gradient) const;
  // Before of a dense exchange, of a gradient type that clips, or clips and decays.
  template <typename Gradient>
  absl::Span<const float> AddDense(Gradient g, absl::Span<float> scratch);

  const wire::Config::Dgc config_;
  TensorFacts tensor_;
  const double most_norm_;  // of the local gradient; 0: any
  const float decay_;       // times the parameter, in the local gradient
  absl::Span<const float> parameter_;
  FloatVector u_;
  FloatVector v_;               // empty before the first compressed step
  FloatVector next_u_;          // dense: u of the step under way; empty when compressed
  std::vector<uint32_t> sent_;  // places to mask
  ResidualDrain drain_;
  std::optional<JobMomentum> job_;
  kernels::Momentum momentum_;  // of the step under way
  Pending pending_ = Pending::kNothing;
};

// SGD with the weight decay in a buffer of its own, which never enters u or v and is equal on all ranks:
//   B <- m B + lambda w;   w <- w - learning_rate * (B + out)
// With Nesterov the decay term is lambda w + m B. B exists only when lambda > 0. (Authors' code.)
// With `dgc.decay: local` the decay is in out already, and this is plain SGD.
class DgcUpdate final : public ParameterUpdate {
 public:
  DgcUpdate(const wire::Config::Dgc& config, size_t elements);

  void Apply(absl::Span<const float> out, double learning_rate, absl::Span<float> parameter) override;
  void VisitState(const TensorMethod::Visitor& visit) override;

 private:
  const wire::Config::Dgc config_;
  FloatVector decay_;
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_DGC_H_
