// SPDX-License-Identifier: Apache-2.0
//
// Rounds, for linear codecs: what they send is floats whose sum over the ranks means something, so each
// round is one dense all-reduce, over one buffer that holds the floats of all tensors of the batch. With
// the codec powersgd the first round carries all P, the second all Q.
//
// Floats have no header, so in front of the first round's stands one more for each tensor: 1 where the rank's
// gradient held a NaN or an Inf. A tensor of which any rank says so drops out after that round, on all ranks:
// its residual holds the whole of c by then, and there it waits.
#include <algorithm>
#include <vector>

#include "compressors/kernels/vector.h"
#include "runtime/engine/batch.h"

namespace terse::engine {

absl::Status BatchRunner::RunLowRank(const BatchContext& context, absl::Span<Item> items) {
  size_t without_feedback = 0;
  size_t rounds = 0;
  for (const Item& item : items) {
    if (!item.tensor->row.error_feedback) without_feedback += item.tensor->elements;
    rounds = std::max(rounds, item.tensor->codec->Rounds(item.params));
  }
  absl::Span<float> work = work_.Get(without_feedback);
  std::vector<RoundArgs> args(items.size());

  for (size_t round = 0; round < rounds; ++round) {
    std::vector<size_t> counts;
    const size_t flags = round == 0 ? items.size() : 0;
    size_t total = flags;
    for (const Item& item : items) {
      const bool dropped = round > 0 && item.nonfinite;
      counts.push_back(dropped ? 0 : item.tensor->codec->RoundFloats(item.params, item.tensor->shape, round));
      total += counts.back();
    }
    const absl::Span<float> bucket = bucket_.Get(total);
    for (size_t i = 0, at = flags; i < items.size(); at += counts[i++]) {
      if (round == 0) args[i] = PrepareRounds(context, &items[i], &work);
      if (counts[i] == 0) continue;
      if (absl::Status status = BeginRound(&items[i], &args[i], round, bucket.subspan(at, counts[i]));
          !status.ok()) {
        return status;
      }
      if (round == 0) bucket[i] = items[i].nonfinite ? 1.0f : 0.0f;
      items[i].bytes += RingBytes(counts[i] + (round == 0 ? 1 : 0), sizeof(float));
    }

    if (total == 0) break;  // every tensor dropped out
    double waited_ms = 0;
    Timed wait(trace_, "wait", &waited_ms);
    if (absl::Status status = SumDense<float>(bucket.data(), bucket.data(), total); !status.ok()) {
      return status;
    }
    wait.Stop();
    ShareTime(items, waited_ms);

    for (size_t i = 0, at = flags; i < items.size(); at += counts[i++]) {
      if (round == 0) items[i].nonfinite = bucket[i] > 0.0f;
      if (counts[i] == 0 || items[i].nonfinite) continue;
      if (absl::Status status = EndRound(context, &items[i], &args[i], round, bucket.subspan(at, counts[i]));
          !status.ok()) {
        return status;
      }
    }
  }
  for (Item& item : items) {
    if (item.nonfinite) Finish(context, &item, ResultSpan(item, &output_));
  }
  return absl::OkStatus();
}

RoundArgs BatchRunner::PrepareRounds(const BatchContext& context, Item* item, absl::Span<float>* work) {
  Tensor& tensor = *item->tensor;
  const Timed encode(trace_, "encode", &tensor.stats.encode_ms);
  const RoundSizes sizes = tensor.codec->SizesOf(item->params, tensor.shape);
  tensor.worker_state.resize(sizes.state);
  Tensor::Pending& pending = tensor.pending;
  if (pending.params != item->params) tensor.Materialize();
  pending.active = true;
  pending.dense = false;
  pending.nonfinite = false;
  pending.params = item->params;
  pending.shards.clear();  // nothing is sent before the last round has ended
  pending.payloads.resize(sizes.payload);
  pending.sent.reset();

  RoundArgs args;
  args.shape = tensor.shape;
  args.ranks = static_cast<size_t>(group_->size());
  args.input = tensor.method->Before(/*dense=*/false, StageIn(context, *item, &gradient_),
                                     input_.Get(tensor.elements), &item->nonfinite);
  args.residual = tensor.method->residual();
  if (args.residual.empty()) {
    args.residual = work->first(tensor.elements);
    work->remove_prefix(tensor.elements);
    std::fill(args.residual.begin(), args.residual.end(), 0.0f);
  }
  args.deferred = tensor.deferred;
  args.state = absl::MakeSpan(tensor.worker_state);
  args.payload = absl::MakeSpan(pending.payloads);
  args.random = RandomOf(tensor, /*stage=*/0);
  args.random.rank = 0;
  return args;
}

absl::Status BatchRunner::BeginRound(Item* item, RoundArgs* args, size_t round, absl::Span<float> floats) {
  Tensor& tensor = *item->tensor;
  const Timed encode(trace_, "encode", &tensor.stats.encode_ms);
  args->scratch = scratch_.Get(tensor.codec->SizesOf(item->params, tensor.shape).scratch);
  const absl::StatusOr<EncodeResult> begun = tensor.codec->BeginRound(item->params, *args, round, floats);
  if (!begun.ok()) return begun.status();
  if (round == 0) {
    tensor.deferred.clear();
    args->deferred = {};
  }
  item->nonfinite |= begun->nonfinite;
  return absl::OkStatus();
}

absl::Status BatchRunner::EndRound(const BatchContext& context, Item* item, RoundArgs* args, size_t round,
                                   absl::Span<const float> sum) {
  Tensor& tensor = *item->tensor;
  const Timed decode(trace_, "decode", &tensor.stats.decode_ms);
  const bool last = round + 1 == tensor.codec->Rounds(item->params);
  const absl::Span<float> result = last ? ResultSpan(*item, &output_) : absl::Span<float>();
  args->scratch = scratch_.Get(tensor.codec->SizesOf(item->params, tensor.shape).scratch);
  if (absl::Status status = tensor.codec->EndRound(item->params, *args, round, sum, result); !status.ok()) {
    return status;
  }
  if (last) {
    tensor.pending.shards = {{.begin = 0, .end = tensor.elements, .out = {}, .size = args->payload.size()}};
    if (tensor.row.error_feedback) tensor.deferred = tensor.pending.payloads;
    if (config_.reduce == wire::Reduce::kSum) {
      kernels::ScaleInPlace(static_cast<float>(group_->size()), result);
    }
    Finish(context, item, result);
  }
  return absl::OkStatus();
}

}  // namespace terse::engine
