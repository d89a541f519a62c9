// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/batch.h"

#include <algorithm>
#include <utility>

namespace terse::engine {

absl::Status BatchRunner::Run(const BatchContext& context, absl::Span<const Call> calls,
                              absl::Span<Tensor* const> tensors) {
  const ScopedWorkers scope(workers_);
  std::vector<Item> dense;
  std::vector<Item> gathered;
  std::vector<Item> sparse;
  std::vector<Item> scattered;
  std::vector<Item> low_rank;
  for (size_t i = 0; i < calls.size(); ++i) {
    Tensor* const tensor = tensors[i];
    // Method allreduce lets a tensor be exchanged again without a step between: the last one was applied.
    if (absl::Status status = ResolvePending(tensor, 1.0); !status.ok()) return status;
    Item item;
    item.tensor = tensor;
    item.call = &calls[i];
    // A job that never calls terse_step stays at step 0; there the tensor's own exchanges are the steps.
    const uint64_t step = std::max(context.step, tensor->applied);
    item.params = tensor->method->Params(step, tensor->row.params);
    item.before_ms = tensor->stats.Milliseconds();
    if (tensor->timing != nullptr) tensor->timing->times = {};
    if (context.adaptation != nullptr && context.adaptation->Measures(tensor->id, context.step)) {
      const absl::Span<const float> gradient = StageIn(context, item, &gradient_);
      if (absl::Status status = context.adaptation->Measure(context.table, tensor, gradient); !status.ok()) {
        return status;
      }
    }
    // Nothing to select: dense is exact at half the bytes, and DGC's masking would clear all of u.
    const bool everything = tensor->codec->kind() == Kind::kGather && item.params.density >= 1.0;
    if (context.exact || IsDense(tensor->row.exchange) || everything ||
        tensor->method->WantsDense(context.step)) {
      dense.push_back(item);
    } else if (tensor->row.exchange == wire::Exchange::kAllGather) {
      gathered.push_back(item);
    } else if (tensor->row.exchange == wire::Exchange::kSparseReduce) {
      sparse.push_back(item);
    } else if (tensor->row.exchange == wire::Exchange::kLowRank) {
      low_rank.push_back(item);
    } else {
      scattered.push_back(item);
    }
  }
  absl::Status status;
  const auto run = [&](auto schedule, std::vector<Item>& items) {
    if (!status.ok() || items.empty()) return;
    double ms = 0;
    Timed exchange(trace_, "exchange", &ms);
    status = (this->*schedule)(context, absl::MakeSpan(items));
    uint64_t bytes = 0;
    for (const Item& item : items) bytes += item.bytes;
    exchange.SetValue("bytes", bytes);
  };
  run(&BatchRunner::RunDense, dense);
  run(&BatchRunner::RunAllGather, gathered);
  run(&BatchRunner::RunSparseReduce, sparse);
  run(&BatchRunner::RunScatterReduce, scattered);
  run(&BatchRunner::RunLowRank, low_rank);
  for (const Item& item : dense) {
    // What the plan compresses and went dense all the same tells nothing.
    if (!IsDense(item.tensor->row.exchange) || item.tensor->timing == nullptr) continue;
    item.tensor->timing->times.dense_ms = item.tensor->stats.Milliseconds() - item.before_ms;
  }
  std::vector<Item> probed;
  for (const std::vector<Item>* items : {&gathered, &sparse, &scattered, &low_rank}) {
    for (const Item& item : *items) {
      PathTiming* const timing = item.tensor->timing.get();
      if (timing == nullptr) continue;
      timing->times.compressed_ms = item.tensor->stats.Milliseconds() - item.before_ms;
      if (timing->probes()) probed.push_back(item);
    }
  }
  if (status.ok()) status = Probe(context, absl::MakeSpan(probed));
  if (status.ok()) return status;

  for (Tensor* const tensor : tensors) {
    // The first error is the one to report; a payload of our own that does not decode adds nothing to it.
    (void)ResolvePending(tensor, 0.0);
  }
  return status;
}

}  // namespace terse::engine
