// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/exchange/scatter_reduce.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compressors/kernels/kernels.h"
#include "runtime/engine/exchange/look.h"
#include "runtime/engine/stopwatch.h"

namespace terse::engine {
namespace {

constexpr int kTags[] = {1, 2};  // of the rounds

// Buffers of `sizes`, one behind the other in one piece of memory.
std::vector<wire::MutableBytes> CutUp(const std::vector<size_t>& sizes, Buffer<std::byte>* memory) {
  const absl::Span<std::byte> all = memory->Get(std::accumulate(sizes.begin(), sizes.end(), size_t{0}));
  std::vector<wire::MutableBytes> pieces;
  pieces.reserve(sizes.size());
  size_t at = 0;
  for (const size_t size : sizes) {
    pieces.push_back(all.subspan(at, size));
    at += size;
  }
  return pieces;
}

std::vector<UnitItem> UnitItems(absl::Span<const BatchRunner::Item> items) {
  std::vector<UnitItem> all;
  for (const BatchRunner::Item& item : items) all.push_back({item.tensor, &item.params});
  return all;
}

}  // namespace

absl::Status BatchRunner::RunScatterReduce(const BatchContext& context, absl::Span<Item> items) {
  return ScatterReduce(this, context, items).Run();
}

ScatterReduce::ScatterReduce(BatchRunner* runner, const BatchContext& context,
                             absl::Span<BatchRunner::Item> items)
    : runner_(*runner),
      context_(context),
      items_(items),
      ranks_(static_cast<size_t>(runner->group_->size())),
      self_(static_cast<size_t>(runner->group_->rank())),
      units_(UnitItems(items), runner->group_->size()),
      message_sizes_(units_.size() * ranks_, 0),
      result_sizes_(units_.size(), 0),
      payloads_(units_.parts() * ranks_),
      closings_(items.size() * ranks_) {
  std::vector<size_t> all;
  std::vector<size_t> own;
  for (size_t u = 0; u < units_.size(); ++u) {
    for (size_t r = 0; r < ranks_; ++r) {
      all.push_back(units_.Capacity(u, static_cast<int>(r)));
      own.push_back(r == self_ ? 0 : units_.Capacity(u, static_cast<int>(self_)));
    }
  }
  sent_from_ = runner_.SentMemory(std::accumulate(all.begin(), all.end(), size_t{0}));
  messages_ = CutUp(all, sent_from_.get());
  received_ = CutUp(own, &runner_.receive_);
  results_ = CutUp(all, &runner_.results_);
}

absl::Status ScatterReduce::Run() {
  const Stopwatch exchange(*runner_.trace_.time);
  const double before = BatchRunner::Worked(items_);
  absl::Status status = RunPipeline();
  // What waits in a residual must be there whole before any of it is taken back.
  while (!status.ok() && encoded_ < units_.size()) {
    if (!EncodeUnit(/*send=*/false).ok()) break;
  }
  runner_.ShareTime(items_, exchange.Milliseconds() - (BatchRunner::Worked(items_) - before));
  return status;
}

absl::Status ScatterReduce::RunPipeline() {
  absl::Status status = StartReceives();
  while (status.ok() && decoded_ < units_.size()) {
    // Sums can be waited for when there is nothing better to do: looking costs calls to the system.
    const bool summed = arrivals_[kScatter].units == units_.size();
    if (status = Poll(summed ? kGather : kScatter); !status.ok()) break;
    // First what others wait for, last what nobody waits for.
    if (CanReduce()) {
      status = ReduceUnit();
    } else if (parsed_ < std::min(encoded_, arrivals_[kScatter].units)) {
      status = ParseUnit();
    } else if (encoded_ < units_.size()) {
      status = EncodeUnit(/*send=*/true);
    } else {
      if (!summed) status = Poll(kGather);
      if (!status.ok()) break;
      status = decoded_ < std::min(reduced_, arrivals_[kGather].units) ? DecodeUnit() : Await();
    }
  }
  for (std::unique_ptr<transport::Operation>& send : sends_) {
    if (status.ok()) status = send->Wait(runner_.patience_);
  }
  return status;
}

absl::Status ScatterReduce::StartReceives() {
  for (const Round round : {kScatter, kGather}) {
    arrivals_[round].lengths.resize(units_.size() * ranks_, 0);
  }
  for (size_t u = 0; u < units_.size(); ++u) {
    for (const Round round : {kScatter, kGather}) {
      Arrivals& arrivals = arrivals_[round];
      std::vector<transport::Buffer> to;
      for (size_t r = 0; r < ranks_; ++r) {
        const wire::MutableBytes place = round == kScatter ? received_[Slot(u, r)] : results_[Slot(u, r)];
        to.push_back({.data = place.data(), .bytes = place.size()});
      }
      transport::OperationOr receive = runner_.group_->ReceiveFromOthers(
          kTags[round], to, absl::MakeSpan(arrivals.lengths).subspan(Slot(u, 0), ranks_), {});
      if (!receive.ok()) return receive.status();
      arrivals.receives.push_back(*std::move(receive));
    }
  }
  return absl::OkStatus();
}

absl::Status ScatterReduce::Send(Round round, absl::Span<const transport::ConstBuffer> messages) {
  transport::OperationOr send = runner_.group_->SendToOthers(kTags[round], messages, {});
  if (!send.ok()) return send.status();
  sends_.push_back(*std::move(send));
  return absl::OkStatus();
}

absl::Status ScatterReduce::Poll(Round round) {
  Arrivals& arrivals = arrivals_[round];
  return PassEnded(arrivals.receives, &arrivals.units);
}

absl::Status ScatterReduce::Await() {
  const size_t before = arrivals_[kScatter].units + arrivals_[kGather].units;
  double waited_ms = 0;
  Timed wait(runner_.trace_, "wait", &waited_ms);
  transport::Operation& last = *arrivals_[kGather].receives.back();
  const absl::StatusOr<bool> come = LookFor(runner_.patience_, last, [&]() -> absl::StatusOr<bool> {
    for (const Round round : {kScatter, kGather}) {
      if (absl::Status status = Poll(round); !status.ok()) return status;
    }
    return arrivals_[kScatter].units + arrivals_[kGather].units > before;
  });
  if (!come.ok()) return come.status();
  if (*come) return absl::OkStatus();
  Arrivals& due = arrivals_[arrivals_[kScatter].units < units_.size() ? kScatter : kGather];
  return due.receives[due.units]->Wait(runner_.patience_);
}

bool ScatterReduce::CanReduce() const { return reduced_ < units_.size() && units_.Needs(reduced_) < parsed_; }

Shard ScatterReduce::PieceOf(const Part& part, size_t r) const {
  const BatchRunner::Item& item = items_[part.item];
  return item.tensor->PieceOf(item.params, static_cast<int>(r), static_cast<int>(ranks_), part.piece);
}

size_t ScatterReduce::LateBytes(const Part& part) const {
  const BatchRunner::Item& item = items_[part.item];
  return item.tensor->LateBytes(item.params, static_cast<int>(ranks_));
}

absl::Status ScatterReduce::EncodeUnit(bool send) {
  for (const Part& part : units_.PartsOf(encoded_)) {
    if (absl::Status status = EncodePart(part); !status.ok()) return status;
  }
  const size_t unit = encoded_++;
  if (!send) return absl::OkStatus();
  std::vector<transport::ConstBuffer> messages;
  for (size_t r = 0; r < ranks_; ++r) {
    messages.push_back({.data = messages_[Slot(unit, r)].data(), .bytes = message_sizes_[Slot(unit, r)]});
  }
  return Send(kScatter, messages);
}

absl::Status ScatterReduce::EncodePart(const Part& part) {
  BatchRunner::Item& item = items_[part.item];
  Tensor& tensor = *item.tensor;
  Timed encode(runner_.trace_, "encode", &tensor.stats.encode_ms);
  if (part.piece == 0) encoding_ = runner_.BeginEncode(context_, &item);
  // Since the last part others have had it.
  encoding_.scratch = runner_.scratch_.Get(tensor.codec->ScratchBytes(item.params, tensor.elements));
  std::vector<Shard> pieces(ranks_);
  for (size_t r = 0; r < ranks_; ++r) {
    const size_t slot = Slot(encoded_, r);
    pieces[r] = PieceOf(part, r);
    pieces[r].out = messages_[slot].subspan(message_sizes_[slot] + wire::kFrameHeaderBytes);
    const absl::StatusOr<EncodeResult> encoded =
        tensor.codec->EncodeParts(item.params, encoding_, {&pieces[r], 1});
    if (!encoded.ok()) return encoded.status();
    item.nonfinite |= encoded->nonfinite;
    runner_.KeepSent(&item, pieces[r], sent_from_);
  }
  std::byte closing[kMostClosingBytes];
  const size_t closing_bytes = part.last ? tensor.codec->ClosingBytes(item.params) : 0;
  if (part.last) {
    tensor.codec->Close(item.params, encoding_, {closing, closing_bytes});
    runner_.EndEncode(&item, {closing, closing_bytes});
  }
  const size_t late_bytes = part.last ? LateBytes(part) : 0;
  for (size_t r = 0; r < ranks_; ++r) {
    if (part.last && late_bytes == 0) {
      tensor.codec->Complete(item.params, {closing, closing_bytes}, pieces[r].out.first(pieces[r].size));
    }
    wire::MutableBytes message = messages_[Slot(encoded_, r)];
    size_t& size = message_sizes_[Slot(encoded_, r)];
    const size_t before = size;
    runner_.Seal(context_, item, pieces[r], message, &size);
    if (late_bytes > 0) {
      Shard end{.begin = tensor.elements, .end = tensor.elements, .out = {}, .size = late_bytes};
      std::copy_n(closing, late_bytes, message.begin() + size + wire::kFrameHeaderBytes);
      runner_.Seal(context_, item, end, message, &size);
    }
    if (r != self_) item.bytes += size - before;
  }
  return absl::OkStatus();
}

absl::Status ScatterReduce::ParseUnit() {
  const size_t unit = parsed_;
  std::vector<wire::MutableBytes> memory(ranks_);
  std::vector<wire::Bytes> rest(ranks_);
  for (size_t r = 0; r < ranks_; ++r) {
    const size_t slot = Slot(unit, r);
    memory[r] = r == self_ ? messages_[slot].first(message_sizes_[slot])
                           : received_[slot].first(arrivals_[kScatter].lengths[slot]);
    rest[r] = memory[r];
  }
  size_t number = units_.FirstPart(unit);
  for (const Part& part : units_.PartsOf(unit)) {
    BatchRunner::Item& item = items_[part.item];
    Timed check(runner_.trace_, "check", &item.tensor->stats.decode_ms);
    const Shard own = PieceOf(part, self_);
    const size_t late_bytes = part.last ? LateBytes(part) : 0;
    for (size_t r = 0; r < ranks_; ++r) {
      absl::StatusOr<wire::Bytes> payload =
          runner_.TakeExpected(context_, &item, own, static_cast<int>(r), &rest[r]);
      if (!payload.ok()) return payload.status();
      payloads_[number * ranks_ + r] =
          memory[r].subspan(static_cast<size_t>(payload->data() - memory[r].data()), payload->size());
      if (late_bytes == 0) continue;
      const size_t n = item.tensor->elements;
      payload = runner_.TakeExpected(context_, &item, {.begin = n, .end = n, .out = {}, .size = 0},
                                     static_cast<int>(r), &rest[r]);
      if (!payload.ok()) return payload.status();
      if (payload->size() != late_bytes) {
        return absl::DataLossError(absl::StrCat("from ", runner_.group_->Describe(static_cast<int>(r)),
                                                ": tensor ", item.tensor->name, " is closed with ",
                                                payload->size(), " bytes instead of ", late_bytes));
      }
      closings_[part.item * ranks_ + r] = *payload;
    }
    ++number;
  }
  ++parsed_;
  return runner_.CheckAtEnd(rest);
}

absl::Status ScatterReduce::ReduceUnit() {
  size_t number = units_.FirstPart(reduced_);
  for (const Part& part : units_.PartsOf(reduced_)) {
    if (absl::Status status = ReducePart(number++, part); !status.ok()) return status;
  }
  const std::vector<transport::ConstBuffer> messages(
      ranks_, {.data = results_[Slot(reduced_, self_)].data(), .bytes = result_sizes_[reduced_]});
  if (absl::Status status = Send(kGather, messages); !status.ok()) return status;
  ++reduced_;
  return absl::OkStatus();
}

absl::Status ScatterReduce::ReducePart(size_t number, const Part& part) {
  BatchRunner::Item& item = items_[part.item];
  Tensor& tensor = *item.tensor;
  Timed decode(runner_.trace_, "sum", &tensor.stats.decode_ms);
  const Shard own = PieceOf(part, self_);
  const size_t n = own.end - own.begin;
  const bool late = LateBytes(part) > 0;
  std::vector<wire::Bytes> payloads;
  for (size_t r = 0; r < ranks_; ++r) {
    const wire::MutableBytes payload = payloads_[number * ranks_ + r];
    if (late) tensor.codec->Complete(item.params, closings_[part.item * ranks_ + r], payload);
    payloads.emplace_back(payload);
  }
  const absl::Span<float> sum = runner_.sum_.Get(n);
  if (absl::Status status = tensor.codec->DecodeSum(item.params, payloads, runner_.Weight(), sum);
      !status.ok()) {
    return status;
  }
  decode.Stop();

  Timed encode(runner_.trace_, "encode sum", &tensor.stats.encode_ms);
  const wire::MutableBytes message = results_[Slot(reduced_, self_)];
  size_t& size = result_sizes_[reduced_];
  Shard shard{.begin = 0, .end = n, .out = message.subspan(size + wire::kFrameHeaderBytes), .size = 0};
  const EncodeArgs args = runner_.ServerArgs(&item, part.piece, sum);
  const absl::StatusOr<EncodeResult> encoded =
      tensor.codec->Encode(item.params, args, absl::MakeSpan(&shard, 1));
  if (!encoded.ok()) return encoded.status();
  // Finite payloads whose sum is not: all ranks learn of it from the owner's frame.
  item.nonfinite |= encoded->nonfinite;
  shard.begin = own.begin;
  shard.end = own.end;
  runner_.Seal(context_, item, shard, message, &size);
  item.bytes += (wire::kFrameHeaderBytes + shard.size) * (ranks_ - 1);
  return absl::OkStatus();
}

absl::Status ScatterReduce::DecodeUnit() {
  std::vector<wire::Bytes> rest(ranks_);
  for (size_t r = 0; r < ranks_; ++r) {
    const size_t slot = Slot(decoded_, r);
    rest[r] = results_[slot].first(r == self_ ? result_sizes_[decoded_] : arrivals_[kGather].lengths[slot]);
  }
  for (const Part& part : units_.PartsOf(decoded_)) {
    if (absl::Status status = DecodePart(part, absl::MakeSpan(rest)); !status.ok()) return status;
  }
  ++decoded_;
  return runner_.CheckAtEnd(rest);
}

absl::Status ScatterReduce::DecodePart(const Part& part, absl::Span<wire::Bytes> rest) {
  BatchRunner::Item& item = items_[part.item];
  Tensor& tensor = *item.tensor;
  Timed decode(runner_.trace_, "decode", &tensor.stats.decode_ms);
  const absl::Span<float> result = runner_.ResultSpan(item, &runner_.output_);
  const Accumulate assign =
      kernels::BeyondCaches(result.size() * sizeof(float)) ? Accumulate::kAssignAround : Accumulate::kAssign;
  for (size_t r = 0; r < ranks_; ++r) {
    const Shard piece = PieceOf(part, r);
    absl::StatusOr<wire::Bytes> payload =
        runner_.TakeExpected(context_, &item, piece, static_cast<int>(r), &rest[r]);
    if (!payload.ok()) return payload.status();
    const absl::Status status = tensor.codec->Decode(item.params, *payload, 1.0f, assign,
                                                     result.subspan(piece.begin, piece.end - piece.begin));
    if (!status.ok()) return status;
  }
  if (part.last) runner_.Finish(context_, &item, result);
  return absl::OkStatus();
}

}  // namespace terse::engine
