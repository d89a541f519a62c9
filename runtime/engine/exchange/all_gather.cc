// SPDX-License-Identifier: Apache-2.0
//
// All-gather exchange, for codecs whose payloads every rank decodes. All tensors of a batch share one
// message: rank r's message is the frames of its payloads in the batch's order. One round; each rank
// receives (N - 1) payloads, so it is for small worlds or small densities (reference: dgc.md section 7).
#include <algorithm>
#include <vector>

#include "compressors/kernels/vector.h"
#include "runtime/engine/batch.h"

namespace terse::engine {
namespace {

// Uniting positions takes a second look at every payload, so few exchanges of a tensor are counted.
constexpr uint64_t kBuildUpInterval = 64;

constexpr size_t kClearedAtOnce = size_t{1} << 18;  // elements between two looks at the wire

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

  const absl::Span<std::byte> received = receive_.Get(ranks * capacity);
  std::vector<transport::Buffer> to(ranks);
  for (size_t r = 0; r < ranks; ++r) to[r] = {.data = received.data() + r * capacity, .bytes = capacity};
  std::vector<size_t> lengths(ranks, 0);
  const Stopwatch start(*trace_.time);
  transport::OperationOr gather =
      group_->Allgatherv({.data = message.data(), .bytes = size}, to, absl::MakeSpan(lengths), {});
  if (!gather.ok()) return gather.status();
  double waited_ms = start.Milliseconds();
  if (absl::Status status = ClearResults(items, gather->get()); !status.ok()) return status;
  Timed wait(trace_, "wait", &waited_ms);
  if (absl::Status status = (*gather)->Wait(patience_); !status.ok()) return status;
  wait.Stop();
  ShareTime(items, waited_ms);

  // Frames first, all of them: a flag in the last rank's decides what the first rank's are good for.
  std::vector<wire::Bytes> rest(ranks);
  for (size_t r = 0; r < ranks; ++r) rest[r] = received.subspan(r * capacity, lengths[r]);
  std::vector<wire::Bytes> payloads(ranks);
  for (Item& item : items) {
    const Timed decode(trace_, "decode", &item.tensor->stats.decode_ms);
    const Shard whole{.begin = 0, .end = item.tensor->elements, .out = {}, .size = 0};
    for (size_t r = 0; r < ranks; ++r) {
      absl::StatusOr<wire::Bytes> payload =
          TakeExpected(context, &item, whole, static_cast<int>(r), &rest[r]);
      if (!payload.ok()) return payload.status();
      payloads[r] = *payload;
    }
    const absl::Span<float> result = ResultSpan(item, &output_);
    if (absl::Status status = AddUp(item, payloads, result); !status.ok()) return status;
    if (absl::Status status = UnitePositions(&item, payloads); !status.ok()) return status;
    Finish(context, &item, result);
  }
  return CheckAtEnd(rest);
}

// Most of a result stays 0, and clearing it is most of decoding: it is done while the entries travel.
absl::Status BatchRunner::ClearResults(absl::Span<Item> items, transport::Operation* gather) {
  for (Item& item : items) {
    const absl::StatusOr<bool> ended = gather->Test();
    if (!ended.ok()) return ended.status();
    if (*ended) break;  // what is left is cleared piece by piece as it is added to
    if (!ResultIsDirect(item)) continue;
    const Timed clear(trace_, "decode", &item.tensor->stats.decode_ms);
    absl::Span<float> rest = ResultSpan(item, nullptr);
    while (!rest.empty()) {
      const size_t piece = std::min(rest.size(), kClearedAtOnce);
      kernels::Clear(rest.first(piece), item.tensor->elements);
      rest.remove_prefix(piece);
      // The transport may have no thread of its own.
      if (absl::Status status = gather->Test().status(); !status.ok()) return status;
    }
    item.cleared = true;
  }
  return absl::OkStatus();
}

absl::Status BatchRunner::AddUp(const Item& item, absl::Span<const wire::Bytes> payloads,
                                absl::Span<float> result) {
  const Compressor& codec = *item.tensor->codec;
  if (!item.cleared) return codec.DecodeSum(item.params, payloads, Weight(), result);
  for (const wire::Bytes payload : payloads) {
    const absl::Status status = codec.Decode(item.params, payload, Weight(), Accumulate::kAdd, result);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status BatchRunner::UnitePositions(Item* item, absl::Span<const wire::Bytes> payloads) {
  Tensor& tensor = *item->tensor;
  const bool counted = tensor.exchanges % kBuildUpInterval == 0;
  const size_t most = tensor.codec->MostEntries(item->params, tensor.elements);
  const bool wanted = most > 0 && most <= tensor.method->most_support();
  if (!counted && !wanted) return absl::OkStatus();
  const absl::Span<uint32_t> positions = positions_.Get(most);
  size_t selected = 0;
  union_.Reset(tensor.elements);
  for (const wire::Bytes payload : payloads) {
    const absl::StatusOr<size_t> count =
        tensor.codec->Support(item->params, payload, tensor.elements, positions);
    if (!count.ok()) return count.status();
    union_.Insert(positions.first(*count));
    selected += *count;
  }
  support_.resize(selected);
  support_.resize(union_.CopyTo(support_.data()));
  if (counted) {
    BuildUp& build_up = tensor.stats.build_up;
    build_up.selected += selected;
    build_up.distinct += support_.size();
    build_up.accepted += support_.size();
    ++build_up.exchanges;
  }
  if (wanted) item->support = &support_;
  return absl::OkStatus();
}

}  // namespace terse::engine
