// SPDX-License-Identifier: Apache-2.0
//
// Method `allreduce`: the caller gets the mean (or sum) of the gradients, approximated by the compressor,
// and its optimizer stays as it is. What a step does not send waits in the residual r (error feedback):
//
//   c = g + r,   r <- c - decoded(payload)          both by the codec, while it encodes
//
// Source: Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019, algorithm 1, with the learning
// rate outside of the residual. docs/methods.md says more.
#ifndef TERSE_COMPRESSORS_METHODS_ERROR_FEEDBACK_H_
#define TERSE_COMPRESSORS_METHODS_ERROR_FEEDBACK_H_

#include "compressors/memory/large_vector.h"
#include "compressors/methods/method.h"
#include "compressors/methods/residual_drain.h"

namespace terse {

// Memory: n floats from the first compressed step on, until the tensor goes dense and they have drained; none
// without error feedback.
class ErrorFeedback final : public TensorMethod {
 public:
  ErrorFeedback(const wire::Config::TopK& config, const TensorFacts& tensor)
      : config_(config), tensor_(tensor) {}

  wire::CodecParams Params(uint64_t step, const wire::CodecParams& planned) const override;
  absl::Span<const float> Before(bool dense, absl::Span<const float> gradient, absl::Span<float> scratch,
                                 bool* nonfinite) override;
  absl::Span<float> residual() override { return absl::MakeSpan(residual_); }
  bool AfterExchange(bool dense, absl::Span<float> out) override;
  void Resolve(double applied) override;
  void Replan(const TensorFacts& tensor) override { tensor_ = tensor; }
  void VisitState(const Visitor& visit) override;

 private:
  const wire::Config::TopK config_;  // warm-up of the density, which only topk reads
  TensorFacts tensor_;
  FloatVector residual_;
  ResidualDrain drain_;
};

// w <- w - learning_rate * out: plain SGD, without weight decay.
class SgdUpdate final : public ParameterUpdate {
 public:
  void Apply(absl::Span<const float> out, double learning_rate, absl::Span<float> parameter) override;
  void VisitState(const TensorMethod::Visitor& visit) override {}
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_ERROR_FEEDBACK_H_
