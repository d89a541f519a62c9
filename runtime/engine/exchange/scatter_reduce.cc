// SPDX-License-Identifier: Apache-2.0
//
// Scatter-reduce-all-gather (SRA), for codecs that can encode a range by itself. Rank j owns shard j of
// every tensor. Each rank encodes its gradient and sends shard j's payload to rank j; the owner sums what
// came in rank order, adds the error its own last compression left (server error feedback), compresses
// the sum again and sends it to all. Two rounds of 2(N-1)/N times the compressed size, whatever N is.
// Every rank decodes the owner's bytes, the owner too, so all ranks hold the same bits.
// Source: 1-bit Adam (Tang et al., 2021), reference/onebit_adam.md section 1; CGX's scatter-reduce.
#include <vector>

#include "runtime/engine/batch.h"
#include "runtime/engine/stopwatch.h"

namespace terse::engine {
namespace {

size_t FrameCapacity(const Tensor& tensor, const wire::CodecParams& params, const Shard& shard) {
  return wire::kFrameHeaderBytes + tensor.codec->MaxPayloadBytes(params, shard.end - shard.begin);
}

}  // namespace

absl::Status BatchRunner::RunScatterReduce(const BatchContext& context, absl::Span<Item> items) {
  const int ranks = group_->size();
  const int self = group_->rank();

  // messages[j]: this rank's shards j of all tensors, for their owner j.
  std::vector<size_t> capacity(static_cast<size_t>(ranks), 0);  // of any message about rank j's shards
  size_t total = 0;
  for (int j = 0; j < ranks; ++j) {
    for (const Item& item : items) {
      capacity[j] += FrameCapacity(*item.tensor, item.params, item.tensor->ShardOf(item.params, j, ranks));
    }
    total += capacity[j];
  }
  const absl::Span<std::byte> memory = send_.Get(total);
  std::vector<wire::MutableBytes> messages;
  for (size_t at = 0, j = 0; j < capacity.size(); at += capacity[j++]) {
    messages.push_back(memory.subspan(at, capacity[j]));
  }
  std::vector<size_t> sizes(messages.size(), 0);
  for (Item& item : items) {
    if (absl::Status status = EncodeShards(context, &item, messages, absl::MakeSpan(sizes)); !status.ok()) {
      return status;
    }
  }

  const Stopwatch scatter;
  const size_t own_capacity = capacity[static_cast<size_t>(self)];
  const absl::Span<std::byte> received = receive_.Get(own_capacity * messages.size());
  std::vector<transport::ConstBuffer> from;
  std::vector<transport::Buffer> to;
  for (size_t r = 0; r < messages.size(); ++r) {
    from.push_back({.data = messages[r].data(), .bytes = sizes[r]});
    to.push_back({.data = received.data() + r * own_capacity, .bytes = own_capacity});
  }
  std::vector<size_t> lengths(messages.size(), 0);
  if (absl::Status status = WaitFor(group_->Alltoallv(from, to, absl::MakeSpan(lengths), {})); !status.ok()) {
    return status;
  }
  double exchange_ms = scatter.Milliseconds();

  // The own shard of every tensor: sum, compress again, into this rank's message to all.
  std::vector<wire::Bytes> rest(messages.size());
  for (size_t r = 0; r < rest.size(); ++r) rest[r] = received.subspan(r * own_capacity, lengths[r]);
  const absl::Span<std::byte> reduced = reduced_.Get(own_capacity);
  size_t reduced_size = 0;
  for (Item& item : items) {
    absl::StatusOr<size_t> frame =
        ReduceOwnShard(context, &item, absl::MakeSpan(rest), reduced.subspan(reduced_size));
    if (!frame.ok()) return frame.status();
    reduced_size += *frame;
    item.bytes += *frame * (messages.size() - 1);
  }

  const Stopwatch gather;
  const absl::Span<std::byte> results = receive_.Get(total);
  to.clear();
  for (size_t at = 0, r = 0; r < capacity.size(); at += capacity[r++]) {
    to.push_back({.data = results.data() + at, .bytes = capacity[r]});
  }
  if (absl::Status status = WaitFor(group_->Allgatherv({.data = reduced.data(), .bytes = reduced_size}, to,
                                                       absl::MakeSpan(lengths), {}));
      !status.ok()) {
    return status;
  }
  exchange_ms += gather.Milliseconds();
  ShareTime(items, exchange_ms);

  for (size_t r = 0; r < rest.size(); ++r) {
    rest[r] = wire::Bytes(static_cast<const std::byte*>(to[r].data), lengths[r]);
  }
  for (Item& item : items) {
    const Stopwatch decode;
    const absl::Span<float> result = ResultSpan(item, &output_);
    for (int r = 0; r < ranks; ++r) {
      const Shard shard = item.tensor->ShardOf(item.params, r, ranks);
      absl::StatusOr<wire::Bytes> payload =
          TakeExpected(context, &item, shard, r, &rest[static_cast<size_t>(r)]);
      if (!payload.ok()) return payload.status();
      const absl::Status status =
          item.tensor->codec->Decode(item.params, *payload, 1.0f, Accumulate::kAssign,
                                     result.subspan(shard.begin, shard.end - shard.begin));
      if (!status.ok()) return status;
    }
    Finish(context, &item, result);
    item.tensor->stats.decode_ms += decode.Milliseconds();
  }
  return absl::OkStatus();
}

absl::Status BatchRunner::EncodeShards(const BatchContext& context, Item* item,
                                       absl::Span<const wire::MutableBytes> messages,
                                       absl::Span<size_t> sizes) {
  std::vector<Shard> shards;
  for (size_t j = 0; j < messages.size(); ++j) {
    Shard shard = item->tensor->ShardOf(item->params, static_cast<int>(j), group_->size());
    shard.out = messages[j].subspan(sizes[j] + wire::kFrameHeaderBytes);
    shards.push_back(shard);
  }
  if (absl::Status status = Encode(context, item, absl::MakeSpan(shards)); !status.ok()) return status;
  for (size_t j = 0; j < messages.size(); ++j) {
    const size_t frame = wire::kFrameHeaderBytes + shards[j].size;
    wire::SealFrame(HeaderOf(context, *item, shards[j]), messages[j].subspan(sizes[j], frame));
    sizes[j] += frame;
    if (j != static_cast<size_t>(group_->rank())) item->bytes += frame;
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> BatchRunner::ReduceOwnShard(const BatchContext& context, Item* item,
                                                   absl::Span<wire::Bytes> rest, wire::MutableBytes out) {
  Tensor& tensor = *item->tensor;
  const Stopwatch watch;
  Shard own = tensor.ShardOf(item->params, group_->rank(), group_->size());
  const size_t n = own.end - own.begin;
  std::vector<wire::Bytes> payloads;
  for (size_t r = 0; r < rest.size(); ++r) {
    absl::StatusOr<wire::Bytes> payload = TakeExpected(context, item, own, static_cast<int>(r), &rest[r]);
    if (!payload.ok()) return payload.status();
    payloads.push_back(*payload);
  }
  const absl::Span<float> sum = sum_.Get(n);
  if (absl::Status status = tensor.codec->DecodeSum(item->params, payloads, Weight(), sum); !status.ok()) {
    return status;
  }
  tensor.stats.decode_ms += watch.Milliseconds();

  const Stopwatch again;
  if (tensor.row.error_feedback) tensor.server_residual.resize(n, 0.0f);
  tensor.pending.server_before = tensor.server_residual;
  tensor.server_state.resize(tensor.codec->StateBytes(item->params, n));
  EncodeArgs args;
  args.input = sum;
  args.residual = absl::MakeSpan(tensor.server_residual);
  args.state = absl::MakeSpan(tensor.server_state);
  args.scratch = scratch_.Get(tensor.codec->ScratchBytes(item->params, n));
  args.random = RandomOf(tensor, /*stage=*/1);
  Shard shard{.begin = 0, .end = n, .out = out.subspan(wire::kFrameHeaderBytes), .size = 0};
  const absl::StatusOr<EncodeResult> encoded =
      tensor.codec->Encode(item->params, args, absl::MakeSpan(&shard, 1));
  if (!encoded.ok()) return encoded.status();
  // Finite payloads whose sum is not: all ranks learn of it from the owner's frame.
  item->nonfinite |= encoded->nonfinite;
  own.size = shard.size;
  const size_t frame = wire::kFrameHeaderBytes + shard.size;
  wire::SealFrame(HeaderOf(context, *item, own), out.first(frame));
  tensor.stats.encode_ms += again.Milliseconds();
  return frame;
}

}  // namespace terse::engine
