// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/error_feedback.h"

#include "compressors/methods/density_warmup.h"
#include "compressors/methods/finite.h"

namespace terse {

wire::CodecParams ErrorFeedback::Params(uint64_t step, const wire::CodecParams& planned) const {
  wire::CodecParams params = planned;
  params.density = WarmedUpDensity(config_.warmup_steps, config_.warmup_density, step, planned.density);
  return params;
}

absl::Span<const float> ErrorFeedback::Before(bool dense, absl::Span<const float> gradient,
                                              absl::Span<float> scratch, bool* nonfinite) {
  if (!dense && tensor_.error_feedback) residual_.resize(tensor_.elements);
  return gradient;
}

bool ErrorFeedback::AfterExchange(bool dense, absl::Span<float> out) {
  // A compressed result needs no second look: the payloads carry the flag.
  return !dense || AllFinite(out);
}

void ErrorFeedback::VisitState(const Visitor& visit) {
  if (!tensor_.dense && tensor_.error_feedback) residual_.resize(tensor_.elements);
  if (!residual_.empty()) visit("residual", absl::MakeSpan(residual_));
}

void SgdUpdate::Apply(absl::Span<const float> out, double learning_rate, absl::Span<float> parameter) {
  const float rate = static_cast<float>(learning_rate);
  const float* from = out.data();
  float* w = parameter.data();
  for (size_t i = 0; i < parameter.size(); ++i) w[i] -= rate * from[i];
}

}  // namespace terse
