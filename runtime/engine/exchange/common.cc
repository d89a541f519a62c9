// SPDX-License-Identifier: Apache-2.0
//
// What all schedules share: staging between the job's buffers and fp32, method and codec of one tensor,
// and the checks of a frame that has come.
#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "compressors/kernels/vector.h"
#include "proto/wire/text.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/convert.h"

namespace terse::engine {

float BatchRunner::Weight() const {
  return config_.reduce == wire::Reduce::kMean ? 1.0f / static_cast<float>(group_->size()) : 1.0f;
}

absl::Span<const float> BatchRunner::StageIn(const BatchContext& context, const Item& item,
                                             Buffer<float>* staging) {
  const Tensor& tensor = *item.tensor;
  if (item.call->send == nullptr) {
    const absl::Span<float> zeros = staging->Get(tensor.elements);
    std::fill(zeros.begin(), zeros.end(), 0.0f);
    return zeros;
  }
  const bool plain = tensor.dtype == wire::DType::kFloat32 && context.loss_scale == 1.0;
  if (plain && tensor.mask.all()) {
    return {static_cast<const float*>(item.call->send), tensor.elements};
  }
  const absl::Span<float> staged = staging->Get(tensor.job_elements);
  if (!plain) ToFloat(tensor.dtype, item.call->send, 1.0 / context.loss_scale, staged);
  if (!tensor.mask.all())
    tensor.mask.Pack(sizeof(float), plain ? item.call->send : staged.data(), staged.data());
  return staged.first(tensor.elements);
}

absl::Span<const float> BatchRunner::Before(const BatchContext& context, Item* item, bool dense,
                                            const kernels::Momentum** momentum) {
  Tensor& tensor = *item->tensor;
  if (tensor.method->needs_parameter()) {
    tensor.method->SetParameter({item->call->parameter, tensor.elements});
  }
  const absl::Span<const float> gradient = StageIn(context, *item, &gradient_);
  const absl::Span<float> scratch = input_.Get(tensor.elements);
  if (momentum != nullptr && tensor.codec->adds_momentum()) {
    return tensor.method->BeforeMomentum(gradient, scratch, &item->nonfinite, momentum);
  }
  return tensor.method->Before(dense, gradient, scratch, &item->nonfinite);
}

bool BatchRunner::ResultIsDirect(const Item& item) {
  const bool fp32 = item.tensor->dtype == wire::DType::kFloat32 || item.call->float_result;
  return fp32 && item.tensor->mask.all();
}

absl::Span<float> BatchRunner::ResultSpan(const Item& item, Buffer<float>* staging) {
  if (ResultIsDirect(item)) {
    return {static_cast<float*>(item.call->recv), item.tensor->elements};
  }
  return staging->Get(item.tensor->elements);
}

EncodeArgs BatchRunner::BeginEncode(const BatchContext& context, Item* item) {
  Tensor& tensor = *item->tensor;
  EncodeArgs args;
  args.input = Before(context, item, /*dense=*/false, &args.momentum);
  tensor.worker_state.resize(tensor.codec->StateBytes(item->params, tensor.elements));
  args.residual = tensor.method->residual();
  args.state = absl::MakeSpan(tensor.worker_state);
  args.scratch = scratch_.Get(tensor.codec->ScratchBytes(item->params, tensor.elements));
  args.random = RandomOf(tensor, /*stage=*/0);

  Tensor::Pending& pending = tensor.pending;
  pending.active = true;
  pending.dense = false;
  pending.params = item->params;
  pending.shards.clear();
  pending.payloads.clear();
  pending.sent.reset();
  // Until EndEncode; where encoding stops before that, zeros must do.
  pending.closing.assign(tensor.codec->ClosingBytes(item->params), std::byte{0});
  return args;
}

void BatchRunner::KeepSent(Item* item, const Shard& shard,
                           const std::shared_ptr<const Buffer<std::byte>>& memory) {
  Tensor::Pending& pending = item->tensor->pending;
  pending.shards.push_back(shard);
  pending.sent = memory;
}

void BatchRunner::EndEncode(Item* item, wire::Bytes closing) {
  Tensor::Pending& pending = item->tensor->pending;
  pending.nonfinite = item->nonfinite;
  pending.closing.assign(closing.begin(), closing.end());
}

std::shared_ptr<Buffer<std::byte>> BatchRunner::SentMemory(size_t bytes) {
  // The smallest that will do, else the largest, so that from step to step batches find what they had.
  const auto unfit = [bytes](const Buffer<std::byte>& memory) {
    const size_t has = memory.capacity();
    return has >= bytes ? has - bytes : SIZE_MAX - has;
  };
  std::shared_ptr<Buffer<std::byte>>* best = nullptr;
  for (std::shared_ptr<Buffer<std::byte>>& memory : sent_) {
    if (memory.use_count() > 1) continue;  // some tensor's step has yet to end
    if (best == nullptr || unfit(*memory) < unfit(**best)) best = &memory;
  }
  if (best == nullptr) best = &sent_.emplace_back(std::make_shared<Buffer<std::byte>>());
  return *best;
}

absl::Status BatchRunner::EncodeWhole(const BatchContext& context, Item* item, Shard* shard,
                                      EarlyEntries* early, Entries* selected) {
  Tensor& tensor = *item->tensor;
  const Timed encode(trace_, "encode", &tensor.stats.encode_ms);
  EncodeArgs args = BeginEncode(context, item);
  args.early = early;
  const absl::StatusOr<EncodeResult> encoded =
      tensor.codec->Encode(item->params, args, absl::MakeSpan(shard, 1));
  if (!encoded.ok()) return encoded.status();
  item->nonfinite |= encoded->nonfinite;
  tensor.pending.shards = {*shard};
  tensor.pending.payloads.assign(shard->out.begin(),
                                 shard->out.begin() + static_cast<ptrdiff_t>(shard->size));
  EndEncode(item, {});
  if (selected != nullptr) {
    const size_t most = tensor.codec->MostEntries(item->params, tensor.elements);
    absl::Status status = Unpack(*item, tensor.pending.payloads, tensor.elements, most, selected);
    if (!status.ok()) return status;
  }
  // By sparse reduce the ranks have yet to choose among what they selected.
  if (tensor.row.exchange != wire::Exchange::kAllGather) return absl::OkStatus();
  if (selected != nullptr) {
    tensor.method->AfterEncode(selected->positions);
    return absl::OkStatus();
  }
  // A position takes at least the two bytes of its value.
  const absl::Span<uint32_t> positions = positions_.Get(shard->size / 2 + 1);
  const absl::StatusOr<size_t> sent =
      tensor.codec->Support(item->params, tensor.pending.payloads, tensor.elements, positions);
  if (!sent.ok()) return sent.status();
  tensor.method->AfterEncode(positions.first(*sent));
  return absl::OkStatus();
}

absl::Status BatchRunner::EncodeEntries(const BatchContext& context, Item* item, EarlyEntries* early,
                                        Entries* selected) {
  const Tensor& tensor = *item->tensor;
  Item local = *item;
  local.params.index = wire::IndexCoding::kU32;  // positions as they are
  Shard shard{.begin = 0, .end = tensor.elements, .out = {}, .size = 0};
  shard.out = results_.Get(tensor.codec->MaxPayloadBytes(local.params, tensor.elements));
  absl::Status status = EncodeWhole(context, &local, &shard, early, selected);
  if (status.ok()) item->nonfinite = local.nonfinite;
  return status;
}

absl::Status BatchRunner::Unpack(const Item& item, wire::Bytes payload, size_t n, size_t most,
                                 Entries* entries) {
  entries->Resize(most);
  const absl::StatusOr<size_t> count = item.tensor->codec->Unpack(
      item.params, payload, n, absl::MakeSpan(entries->positions), absl::MakeSpan(entries->values));
  if (!count.ok()) return count.status();
  entries->Resize(*count);
  return absl::OkStatus();
}

EncodeArgs BatchRunner::ServerArgs(Item* item, size_t piece, absl::Span<const float> sum) {
  Tensor& tensor = *item->tensor;
  const Shard own = tensor.ShardOf(item->params, group_->rank(), group_->size());
  const size_t each = tensor.PieceElements(item->params);
  const size_t state_bytes = tensor.codec->StateBytes(item->params, each);
  Tensor::Pending& pending = tensor.pending;
  if (tensor.row.error_feedback && piece == 0) {
    tensor.server_residual.resize(own.end - own.begin, 0.0f);
    std::swap(tensor.server_residual, pending.server_before);
    tensor.server_residual.resize(own.end - own.begin);
  }
  tensor.server_state.resize(state_bytes * tensor.Pieces(item->params, group_->size()));

  EncodeArgs args;
  args.input = sum;
  args.state = absl::MakeSpan(tensor.server_state).subspan(piece * state_bytes, state_bytes);
  if (tensor.row.error_feedback) {
    args.residual = absl::MakeSpan(tensor.server_residual).subspan(piece * each, sum.size());
    const absl::Span<const float> before =
        absl::MakeConstSpan(pending.server_before).subspan(piece * each, sum.size());
    if (tensor.codec->ReadsBefore(item->params) && kernels::BeyondCaches(tensor.elements * sizeof(float))) {
      args.before = before;
    } else {
      std::copy(before.begin(), before.end(), args.residual.begin());
    }
    pending.server_moved += sum.size();
  }
  pending.server_state_before.insert(pending.server_state_before.end(), args.state.begin(), args.state.end());
  args.scratch = scratch_.Get(tensor.codec->ScratchBytes(item->params, sum.size()));
  args.random = RandomOf(tensor, /*stage=*/static_cast<uint32_t>(1 + piece));
  return args;
}

RandomKey BatchRunner::RandomOf(const Tensor& tensor, uint32_t stage) const {
  return {.seed = static_cast<uint64_t>(config_.seed),
          .step = tensor.exchanges,
          .rank = static_cast<uint32_t>(group_->rank()),
          .tensor = tensor.id,
          .stage = stage};
}

void BatchRunner::Finish(const BatchContext& context, Item* item, absl::Span<float> result) {
  Tensor& tensor = *item->tensor;
  const bool dense = tensor.pending.dense;
  if (item->nonfinite && !dense) {
    // Withheld on every rank, so that nobody applies a half-true update; ResolvePending takes it back.
    tensor.pending.nonfinite = true;
    tensor.last_finite = false;
    std::fill(result.begin(), result.end(), std::numeric_limits<float>::quiet_NaN());
  } else {
    TensorMethod& method = *tensor.method;
    tensor.last_finite = item->support != nullptr ? method.AfterSparse(*item->support, result)
                                                  : method.AfterExchange(dense, result);
    tensor.pending.nonfinite = !tensor.last_finite;
  }
  StageOut(context, *item, result);
  CountCall(*item);
}

void BatchRunner::StageOut(const BatchContext& context, const Item& item, absl::Span<const float> result) {
  Tensor& tensor = *item.tensor;
  const wire::DType dtype = item.call->float_result ? wire::DType::kFloat32 : tensor.dtype;
  const double scale = item.call->float_result ? 1.0 : context.loss_scale;
  const size_t width = wire::DTypeSize(dtype);
  const bool masked = !tensor.mask.all();
  const void* packed = result.data();
  if (dtype != wire::DType::kFloat32 || scale != 1.0) {
    void* const to = masked ? scratch_.Get(result.size() * width).data() : item.call->recv;
    const bool kept = !tensor.pending.dense && !tensor.method->excess().empty();
    FromFloat(dtype, result, scale, to, kept ? &tensor.pending.excess : nullptr);
    // Every rank sees the same excess; together they keep it once.
    const float share = 1.0f / (Weight() * static_cast<float>(group_->size()));
    for (Excess& element : tensor.pending.excess) element.value *= share;
    packed = to;
  }
  if (masked) tensor.mask.Unpack(width, packed, tensor.job_elements, item.call->recv);
}

void BatchRunner::CountCall(const Item& item) {
  Tensor& tensor = *item.tensor;
  ++tensor.exchanges;
  ++tensor.stats.calls;
  if (!tensor.last_finite) ++tensor.stats.nonfinite_calls;
  tensor.stats.bytes_sent += item.bytes;
  tensor.stats.dense_bytes += RingBytes(tensor.job_elements, wire::DTypeSize(tensor.dtype));
}

size_t BatchRunner::RingBytes(size_t elements, size_t element_bytes) const {
  const auto ranks = static_cast<size_t>(group_->size());
  return 2 * (ranks - 1) * elements * element_bytes / ranks;
}

absl::Status BatchRunner::WaitFor(transport::OperationOr operation) {
  if (!operation.ok()) return operation.status();
  return (*operation)->Wait(patience_);
}

wire::FrameHeader BatchRunner::HeaderOf(const BatchContext& context, const Item& item,
                                        const Shard& shard) const {
  wire::FrameHeader header;
  header.codec = item.tensor->row.codec;
  header.exchange = item.tensor->row.exchange;
  header.flags = item.nonfinite ? wire::kFrameNonfinite : 0;
  header.plan_version = context.plan_version;
  header.tensor = item.tensor->id;
  header.step = context.step;
  header.begin = shard.begin;
  header.count = shard.end - shard.begin;
  header.payload_bytes = shard.size;
  return header;
}

void BatchRunner::Seal(const BatchContext& context, const Item& item, const Shard& shard,
                       wire::MutableBytes message, size_t* size) const {
  const size_t frame = wire::kFrameHeaderBytes + shard.size;
  wire::SealFrame(HeaderOf(context, item, shard), message.subspan(*size, frame));
  *size += frame;
}

absl::Status BatchRunner::From(size_t r, const absl::Status& status) const {
  return absl::DataLossError(
      absl::StrCat("from ", group_->Describe(static_cast<int>(r)), ": ", status.message()));
}

absl::StatusOr<wire::Bytes> BatchRunner::TakeExpected(const BatchContext& context, Item* item,
                                                      const Shard& shard, int from, wire::Bytes* bytes) {
  absl::StatusOr<wire::ParsedFrame> frame = wire::TakeFrame(*bytes);
  if (!frame.ok()) {
    return From(static_cast<size_t>(from), frame.status());
  }
  // Size and flags are the sender's own; everything else all ranks know beforehand.
  wire::FrameHeader expected = HeaderOf(context, *item, shard);
  expected.flags = frame->header.flags;
  expected.payload_bytes = frame->header.payload_bytes;
  if (frame->header != expected) {
    return absl::DataLossError(absl::StrCat(
        "from ", group_->Describe(from), ": a frame of tensor ", frame->header.tensor, ", step ",
        frame->header.step, ", elements ", frame->header.begin, "+", frame->header.count, ", codec ",
        wire::View(wire::Name(frame->header.codec)), " where tensor ", expected.tensor, " (",
        item->tensor->name, "), step ", expected.step, ", elements ", expected.begin, "+", expected.count,
        ", codec ", wire::View(wire::Name(expected.codec)), " was due"));
  }
  if ((frame->header.flags & wire::kFrameNonfinite) != 0) item->nonfinite = true;
  return frame->payload;
}

absl::Status BatchRunner::CheckAtEnd(absl::Span<const wire::Bytes> rest) const {
  for (size_t r = 0; r < rest.size(); ++r) {
    if (rest[r].empty()) continue;
    return absl::DataLossError(
        absl::StrCat("bytes behind the last frame from ", group_->Describe(static_cast<int>(r))));
  }
  return absl::OkStatus();
}

double BatchRunner::Worked(absl::Span<const Item> items) {
  double ms = 0;
  for (const Item& item : items) ms += item.tensor->stats.encode_ms + item.tensor->stats.decode_ms;
  return ms;
}

void BatchRunner::ShareTime(absl::Span<Item> items, double ms) {
  size_t total = 0;
  for (const Item& item : items) total += item.bytes;
  for (Item& item : items) {
    item.tensor->stats.exchange_ms +=
        ms * (total > 0 ? static_cast<double>(item.bytes) / static_cast<double>(total)
                        : 1.0 / static_cast<double>(items.size()));
  }
}

}  // namespace terse::engine
