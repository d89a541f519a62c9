// SPDX-License-Identifier: Apache-2.0
//
// All-gather exchange, for codecs whose payloads every rank decodes. All tensors of a batch share one
// message: rank r's message is the frames of its payloads in the batch's order. One round; each rank
// receives (N - 1) payloads, so it is for small worlds or small densities (reference: dgc.md section 7).
#include <vector>

#include "runtime/engine/batch.h"
#include "runtime/engine/stopwatch.h"

namespace terse::engine {
namespace {

// Counting positions takes a second look at every payload, so few exchanges of a tensor are counted.
constexpr uint64_t kBuildUpInterval = 64;

}  // namespace

absl::Status BatchRunner::RunAllGather(const BatchContext& context, absl::Span<Item> items) {
  const auto ranks = static_cast<size_t>(group_->size());
  size_t capacity = 0;
  for (const Item& item : items) {
    capacity +=
        wire::kFrameHeaderBytes + item.tensor->codec->MaxPayloadBytes(item.params, item.tensor->elements);
  }

  const absl::Span<std::byte> message = send_.Get(capacity);
  size_t size = 0;
  for (Item& item : items) {
    Shard shard{.begin = 0, .end = item.tensor->elements, .out = {}, .size = 0};
    shard.out = message.subspan(size + wire::kFrameHeaderBytes);
    if (absl::Status status = EncodeWhole(context, &item, &shard); !status.ok()) return status;
    const size_t frame = wire::kFrameHeaderBytes + shard.size;
    wire::SealFrame(HeaderOf(context, item, shard), message.subspan(size, frame));
    item.bytes = frame * (ranks - 1);
    size += frame;
  }

  const Stopwatch exchange;
  const absl::Span<std::byte> received = receive_.Get(ranks * capacity);
  std::vector<transport::Buffer> to(ranks);
  for (size_t r = 0; r < ranks; ++r) to[r] = {.data = received.data() + r * capacity, .bytes = capacity};
  std::vector<size_t> lengths(ranks, 0);
  if (absl::Status status = WaitFor(
          group_->Allgatherv({.data = message.data(), .bytes = size}, to, absl::MakeSpan(lengths), {}));
      !status.ok()) {
    return status;
  }
  ShareTime(items, exchange.Milliseconds());

  // Frames first, all of them: a flag in the last rank's decides what the first rank's are good for.
  std::vector<wire::Bytes> rest(ranks);
  for (size_t r = 0; r < ranks; ++r) rest[r] = received.subspan(r * capacity, lengths[r]);
  std::vector<wire::Bytes> payloads(ranks);
  for (Item& item : items) {
    const Stopwatch decode;
    const Shard whole{.begin = 0, .end = item.tensor->elements, .out = {}, .size = 0};
    for (size_t r = 0; r < ranks; ++r) {
      absl::StatusOr<wire::Bytes> payload =
          TakeExpected(context, &item, whole, static_cast<int>(r), &rest[r]);
      if (!payload.ok()) return payload.status();
      payloads[r] = *payload;
    }
    const absl::Span<float> result = ResultSpan(item, &output_);
    if (absl::Status status = item.tensor->codec->DecodeSum(item.params, payloads, Weight(), result);
        !status.ok()) {
      return status;
    }
    if (item.tensor->exchanges % kBuildUpInterval == 0) {
      if (absl::Status status = CountBuildUp(item, payloads); !status.ok()) return status;
    }
    Finish(context, &item, result);
    item.tensor->stats.decode_ms += decode.Milliseconds();
  }
  return CheckAtEnd(rest);
}

absl::Status BatchRunner::CountBuildUp(const Item& item, absl::Span<const wire::Bytes> payloads) {
  const size_t n = item.tensor->elements;
  const absl::Span<uint32_t> positions = positions_.Get(item.tensor->codec->MostEntries(item.params, n));
  BuildUp& build_up = item.tensor->stats.build_up;
  union_.Reset(n);
  for (const wire::Bytes payload : payloads) {
    const absl::StatusOr<size_t> count = item.tensor->codec->Support(item.params, payload, n, positions);
    if (!count.ok()) return count.status();
    union_.Insert(positions.first(*count));
    build_up.selected += *count;
  }
  const size_t distinct = union_.Count();
  build_up.distinct += distinct;
  build_up.accepted += distinct;
  ++build_up.exchanges;
  return absl::OkStatus();
}

}  // namespace terse::engine
