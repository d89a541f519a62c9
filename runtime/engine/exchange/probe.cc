// SPDX-License-Identifier: Apache-2.0
//
// What a dense exchange of a tensor takes that goes compressed, for `dense_when_faster`: the same staging,
// fusing, sum and conversion, over whatever the send buffer holds, into memory that nobody reads. The method
// is not asked, so no residual drains and no momentum moves; what it does in passes of its own, dense or
// not, is left out. Of a large tensor no more goes than the choice asks for.
#include <algorithm>
#include <cmath>
#include <vector>

#include "compressors/methods/finite.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/convert.h"

namespace terse::engine {
namespace {

size_t ElementsOfPart(const Tensor& tensor) {
  return static_cast<size_t>(
      std::ceil(static_cast<double>(tensor.elements) * tensor.timing->choice.dense_part()));
}

}  // namespace

absl::Status BatchRunner::Probe(const BatchContext& context, absl::Span<Item> items) {
  for (const Item& item : items) item.tensor->timing->times.dense_ms = 0;
  while (!items.empty()) {
    size_t elements = 0;
    const size_t together = Fused(items, &elements);
    // What is fused is small, and goes whole.
    if (together == 1) elements = ElementsOfPart(*items.front().tensor);
    if (absl::Status status = ProbeFused(context, items.first(together), elements); !status.ok())
      return status;
    items.remove_prefix(together);
  }
  return absl::OkStatus();
}

absl::Status BatchRunner::ProbeFused(const BatchContext& context, absl::Span<Item> items, size_t elements) {
  const bool fused = items.size() > 1;
  absl::Span<const float> input;
  const absl::Span<float> bucket = fused ? bucket_.Get(elements) : absl::Span<float>();
  const Tensor& first = *items.front().tensor;
  // So that the whole finds its memory touched, should it come to that.
  if (!fused && elements < first.elements) {
    const absl::Span<float> whole = probe_.Get(first.elements);
    std::fill(whole.begin(), whole.end(), 0.0f);
  }
  size_t at = 0;
  for (const Item& item : items) {
    Timed stage(trace_, "probe", &item.tensor->timing->times.dense_ms);
    input = StageIn(context, item, &gradient_);
    if (!fused) {
      stage.Stop();
      item.tensor->timing->times.dense_ms *=
          static_cast<double>(elements) / static_cast<double>(first.elements);
      break;
    }
    std::copy(input.begin(), input.end(), bucket.begin() + static_cast<ptrdiff_t>(at));
    at += input.size();
  }
  const absl::Span<float> result = fused ? bucket : probe_.Get(elements);
  double waited_ms = 0;
  Timed wait(trace_, "probe", &waited_ms);
  if (absl::Status status = SumDense(fused ? bucket.data() : input.data(), result.data(), elements);
      !status.ok()) {
    return status;
  }
  wait.Stop();
  at = 0;
  for (const Item& item : items) {
    PathTiming& timing = *item.tensor->timing;
    const size_t n = fused ? item.tensor->elements : elements;
    timing.times.dense_ms += waited_ms * static_cast<double>(n) / static_cast<double>(elements);
    Timed finish(trace_, "probe", &timing.times.dense_ms);
    const absl::Span<float> own = fused ? probe_.Get(n) : result;
    if (fused) std::copy_n(bucket.data() + at, n, own.data());
    const bool finite = FinishProbe(context, item, own);
    finish.Stop();
    at += n;
    timing.probe_ms += timing.times.dense_ms;
    // A step without a result is no measure of one with.
    if (!finite) timing.times.dense_ms = policy::PathTimes::kMissing;
  }
  return absl::OkStatus();
}

bool BatchRunner::FinishProbe(const BatchContext& context, const Item& item, absl::Span<float> result) {
  const Tensor& tensor = *item.tensor;
  if (const float weight = Weight(); weight != 1.0f) {
    for (float& x : result) x *= weight;
  }
  const bool finite = AllFinite(result);
  const bool plain = tensor.dtype == wire::DType::kFloat32 && context.loss_scale == 1.0;
  if (!plain && !item.call->float_result) {
    const size_t bytes = result.size() * wire::DTypeSize(tensor.dtype);
    FromFloat(tensor.dtype, result, context.loss_scale, scratch_.Get(bytes).data(), nullptr);
  }
  return finite;
}

}  // namespace terse::engine
