// SPDX-License-Identifier: Apache-2.0
//
// Dense exchange: the exact sum. By default the transport's own all-reduce, over buffers in place where
// that is possible; small tensors are fused into buckets, because a collective's latency is paid once a
// call. With `dense: deterministic` the sum is taken in rank order by the shard's owner, so that all
// transports give the same bits.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "runtime/engine/batch.h"

namespace terse::engine {
namespace {

// Fused below this size, up to that one: the copy into the bucket is small against a collective's latency
// there (performance.md section 3, crossover by tensor size).
constexpr size_t kFuseBelowElements = size_t{64} << 10;
constexpr size_t kMostBucketElements = size_t{1} << 20;

}  // namespace

absl::Status BatchRunner::RunDense(const BatchContext& context, absl::Span<Item> items) {
  for (size_t i = 0; i < items.size();) {
    const Tensor& tensor = *items[i].tensor;
    absl::Status status;
    size_t elements = 0;
    size_t end = i + 1;
    if (tensor.dtype == wire::DType::kFloat64 && config_.method == wire::Method::kAllreduce &&
        !tensor.was_compressed && !items[i].call->float_result) {
      status = DenseDouble(&items[i]);
    } else if (tensor.elements >= kFuseBelowElements) {
      status = DenseOne(context, &items[i]);
    } else {
      end = i + Fused(items.subspan(i), &elements);
      status = DenseBucket(context, items.subspan(i, end - i), elements);
    }
    if (!status.ok()) return status;
    i = end;
  }
  return absl::OkStatus();
}

size_t BatchRunner::Fused(absl::Span<const Item> items, size_t* elements) {
  *elements = items.front().tensor->elements;
  size_t end = 1;
  if (*elements >= kFuseBelowElements) return end;
  while (end < items.size() && items[end].tensor->elements < kFuseBelowElements &&
         items[end].tensor->dtype != wire::DType::kFloat64 &&
         *elements + items[end].tensor->elements <= kMostBucketElements) {
    *elements += items[end++].tensor->elements;
  }
  return end;
}

absl::Span<const float> BatchRunner::DenseInput(const BatchContext& context, Item* item) {
  item->tensor->Materialize();  // what waits drains
  item->tensor->pending.active = true;
  item->tensor->pending.dense = true;
  item->tensor->pending.nonfinite = false;
  return Before(context, item, /*dense=*/true);
}

absl::Status BatchRunner::DenseOne(const BatchContext& context, Item* item) {
  Timed encode(trace_, "encode", &item->tensor->stats.encode_ms);
  const absl::Span<const float> input = DenseInput(context, item);
  encode.Stop();
  const absl::Span<float> result = ResultSpan(*item, &output_);
  Timed wait(trace_, "wait", &item->tensor->stats.exchange_ms);
  if (absl::Status status = SumDense(input.data(), result.data(), result.size()); !status.ok()) return status;
  wait.Stop();
  item->bytes = RingBytes(item->tensor->elements, sizeof(float));
  FinishDense(context, item, result);
  return absl::OkStatus();
}

absl::Status BatchRunner::DenseBucket(const BatchContext& context, absl::Span<Item> items, size_t elements) {
  const absl::Span<float> bucket = bucket_.Get(elements);
  size_t at = 0;
  for (Item& item : items) {
    const Timed encode(trace_, "encode", &item.tensor->stats.encode_ms);
    const absl::Span<const float> input = DenseInput(context, &item);
    std::copy(input.begin(), input.end(), bucket.begin() + static_cast<ptrdiff_t>(at));
    at += input.size();
    item.bytes = RingBytes(input.size(), sizeof(float));
  }
  double waited_ms = 0;
  Timed wait(trace_, "wait", &waited_ms);
  if (absl::Status status = SumDense<float>(bucket.data(), bucket.data(), elements); !status.ok())
    return status;
  wait.Stop();
  ShareTime(items, waited_ms);
  at = 0;
  for (Item& item : items) {
    const size_t n = item.tensor->elements;
    const absl::Span<float> result = ResultSpan(item, &output_);
    std::copy_n(bucket.data() + at, n, result.data());
    at += n;
    FinishDense(context, &item, result);
  }
  return absl::OkStatus();
}

void BatchRunner::FinishDense(const BatchContext& context, Item* item, absl::Span<float> result) {
  const Timed decode(trace_, "decode", &item->tensor->stats.decode_ms);
  if (const float weight = Weight(); weight != 1.0f) {
    for (float& x : result) x *= weight;
  }
  Finish(context, item, result);
}

// fp64 gradients of method allreduce that are not compressed never pass through fp32: what comes back is the
// fp64 sum.
absl::Status BatchRunner::DenseDouble(Item* item) {
  Tensor& tensor = *item->tensor;
  auto* const result = static_cast<double*>(item->call->recv);
  const auto* input = static_cast<const double*>(item->call->send);
  if (input == nullptr) {
    std::fill_n(result, tensor.elements, 0.0);
    input = result;
  }
  Timed wait(trace_, "wait", &tensor.stats.exchange_ms);
  if (absl::Status status = SumDense(input, result, tensor.elements); !status.ok()) return status;
  wait.Stop();
  item->bytes = RingBytes(tensor.elements, sizeof(double));
  const Timed decode(trace_, "decode", &tensor.stats.decode_ms);
  // The mean by division: 1/N is not exact in fp64 either, and here nothing else is lost.
  const double divisor = config_.reduce == wire::Reduce::kMean ? group_->size() : 1.0;
  bool finite = true;
  for (size_t i = 0; i < tensor.elements; ++i) {
    result[i] /= divisor;
    finite &= std::isfinite(result[i]);
  }
  tensor.last_finite = finite;
  CountCall(*item);
  return absl::OkStatus();
}

template <typename T>
absl::Status BatchRunner::SumDense(const T* in, T* out, size_t n) {
  if (config_.dense_deterministic) return SumInRankOrder(in, out, n);
  constexpr wire::DType kType = std::is_same_v<T, double> ? wire::DType::kFloat64 : wire::DType::kFloat32;
  return WaitFor(group_->Allreduce(in, out, n, kType, {}));
}

template <typename T>
absl::Status BatchRunner::SumInRankOrder(const T* in, T* out, size_t n) {
  const auto ranks = static_cast<size_t>(group_->size());
  const auto self = static_cast<size_t>(group_->rank());
  const size_t each = (n + ranks - 1) / ranks;
  const auto begin = [&](size_t r) { return std::min(n, r * each); };
  const auto bytes = [&](size_t r) { return (begin(r + 1) - begin(r)) * sizeof(T); };

  std::vector<transport::ConstBuffer> from;
  std::vector<transport::Buffer> to;
  const absl::Span<std::byte> received = receive_.Get(ranks * bytes(self));
  for (size_t r = 0; r < ranks; ++r) {
    from.push_back({.data = in + begin(r), .bytes = bytes(r)});
    to.push_back({.data = received.data() + r * bytes(self), .bytes = bytes(self)});
  }
  std::vector<size_t> lengths(ranks, 0);
  if (absl::Status status = WaitFor(group_->Alltoallv(from, to, absl::MakeSpan(lengths), {})); !status.ok()) {
    return status;
  }
  // Into the slot of rank 0, which comes first in the sum anyway.
  auto* const sum = reinterpret_cast<T*>(received.data());
  const size_t own = begin(self + 1) - begin(self);
  for (size_t r = 0; r < ranks; ++r) {
    if (lengths[r] != bytes(self)) {
      return absl::DataLossError("a shard of another size from " + group_->Describe(static_cast<int>(r)));
    }
    const auto* const shard = reinterpret_cast<const T*>(received.data() + r * bytes(self));
    for (size_t i = 0; r > 0 && i < own; ++i) sum[i] += shard[i];
  }
  for (size_t r = 0; r < ranks; ++r) to[r] = {.data = out + begin(r), .bytes = bytes(r)};
  return WaitFor(group_->Allgatherv({.data = sum, .bytes = bytes(self)}, to, absl::MakeSpan(lengths), {}));
}

}  // namespace terse::engine
