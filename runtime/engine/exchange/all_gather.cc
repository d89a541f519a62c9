// SPDX-License-Identifier: Apache-2.0
//
// All-gather exchange, for codecs whose payloads every rank decodes. Each rank receives (N - 1) payloads of
// each tensor, so it is for small worlds or small densities (reference: dgc.md section 7).
//
// A rank's frames travel in messages that are cut alike on all ranks: tensors share one of up to
// wire::kMostMessageBytes, so that the first tensors are on the wire while the next are encoded. A tensor
// with a large payload travels in parts: while it is encoded, of each of its stretches what is told early
// (EarlyEntries), then the rest and what is taken back (entries.h). What arrives are the payload's
// entries, as if it had been sent whole. docs/decisions/0035-told-early.md.
#include <algorithm>
#include <initializer_list>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compressors/kernels/vector.h"
#include "proto/wire/messages.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/exchange/look.h"

namespace terse::engine {
namespace {

constexpr int kTag = 3;

// Uniting positions takes a second look at every payload, so few exchanges of a tensor are counted.
constexpr uint64_t kBuildUpInterval = 64;

constexpr size_t kClearedAtOnce = size_t{1} << 18;  // elements between two looks at the wire

constexpr size_t kStretchUnit = 4096;  // elements; stretches are multiples of it

// How a tensor is told of: in stretches, of which all but the last may be told early. One stretch: nothing
// is.
struct Stretches {
  size_t each = 0;
  size_t count = 1;
  size_t most_told = 0;  // entries of one stretch

  size_t MostToldOfAll(size_t n) const { return std::min(n, (count - 1) * most_told); }
};

Stretches StretchesOf(const BatchRunner::Item& item) {
  const size_t n = item.tensor->elements;
  const Compressor& codec = *item.tensor->codec;
  size_t wanted = 1;
  if (codec.TellsEarly(item.params, n)) {
    wanted = std::min(codec.MaxPayloadBytes(item.params, n) / wire::kStretchBytes + 1, wire::kMostStretches);
  }
  Stretches stretches;
  stretches.each = (n / wanted / kStretchUnit + 1) * kStretchUnit;
  stretches.count = std::max<size_t>((n + stretches.each - 1) / stretches.each, 1);
  // Entries need not be spread evenly; but room is kept for all that may be told, on all ranks.
  const size_t k = codec.MostEntries(item.params, n);
  stretches.most_told = std::min(stretches.each, 5 * k / (4 * stretches.count) + 1);
  return stretches;
}

}  // namespace

class BatchRunner::AllGather final : private EarlyEntries {
 public:
  AllGather(BatchRunner* runner, const BatchContext& context, absl::Span<Item> items)
      : runner_(*runner),
        context_(context),
        items_(items),
        memory_(runner->gather_),
        self_(static_cast<size_t>(runner->group_->rank())),
        ranks_(static_cast<size_t>(runner->group_->size())) {
    for (size_t i = 0; i < items.size(); ++i) Cut(i);
    EndMessage();
  }

  absl::Status Run() {
    const Stopwatch exchange(*runner_.trace_.time);
    const double before = Worked(items_);
    absl::Status status = StartReceives();
    for (size_t i = 0; i < items_.size(); ++i) {
      if (status.ok()) {
        status = EncodeItem(i);
        if (status.ok()) status = sent_;
      } else {
        // What is taken back on an error must be in the residuals whole.
        KeepInResidual(&items_[i]);
      }
    }
    if (status.ok()) status = Await();
    runner_.ShareTime(items_, exchange.Milliseconds() - (Worked(items_) - before));
    if (status.ok()) status = Take();
    for (size_t i = 0; i < items_.size() && status.ok(); ++i) {
      status = PollSends();
      if (status.ok()) status = DecodeItem(i);
    }
    for (std::unique_ptr<transport::Operation>& send : sends_) {
      if (status.ok()) status = send->Wait(runner_.patience_);
    }
    return status;
  }

 private:
  struct Frame {
    size_t item = 0;
    Shard range;  // of elements that its entries are of
  };
  // Frames [first, end), to all ranks.
  struct Message {
    size_t first = 0;
    size_t end = 0;
    size_t capacity = 0;
  };

  // --- Messages: a function of tensors and parameters alone.

  void Cut(size_t i) {
    const Item& item = items_[i];
    const Compressor& codec = *item.tensor->codec;
    const size_t n = item.tensor->elements;
    const Stretches stretches = StretchesOf(item);
    stretches_.push_back(stretches);
    first_frame_.push_back(frames_.size());
    for (size_t s = 0; s + 1 < stretches.count; ++s) {
      const size_t bytes = codec.PackedBytes(item.params, stretches.each, stretches.most_told);
      AddFrames(bytes, {{i, Range(s * stretches.each, (s + 1) * stretches.each)}});
      EndMessage();
    }
    const size_t bytes = codec.MaxPayloadBytes(item.params, n);
    if (stretches.count == 1) {
      AddFrames(bytes, {{i, Range(0, n)}});
    } else {
      const size_t taken_back = codec.PackedBytes(item.params, n, stretches.MostToldOfAll(n));
      AddFrames(bytes + taken_back, {{i, Range(0, n)}, {i, Range(0, n)}});
    }
  }
  static Shard Range(size_t begin, size_t end) { return {.begin = begin, .end = end, .out = {}, .size = 0}; }
  // In one message.
  void AddFrames(size_t payload_bytes, std::initializer_list<Frame> frames) {
    const size_t bytes = frames.size() * wire::kFrameHeaderBytes + payload_bytes;
    if (capacity_ + bytes > wire::kMostMessageBytes) EndMessage();
    frames_.insert(frames_.end(), frames);
    capacity_ += bytes;
  }
  void EndMessage() {
    const size_t first = messages_.empty() ? 0 : messages_.back().end;
    if (first == frames_.size()) return;
    messages_.push_back({first, frames_.size(), capacity_});
    all_capacity_ += capacity_;
    capacity_ = 0;
  }

  absl::Status StartReceives() {
    message_ = runner_.send_.Get(all_capacity_);
    received_ = runner_.receive_.Get(all_capacity_ * ranks_);
    lengths_.resize(messages_.size() * ranks_, 0);
    std::byte* at = received_.data();
    for (size_t m = 0; m < messages_.size(); ++m) {
      std::vector<transport::Buffer> to(ranks_);
      for (transport::Buffer& place : to) {
        place = {.data = at, .bytes = messages_[m].capacity};
        at += messages_[m].capacity;
      }
      transport::OperationOr receive = runner_.group_->ReceiveFromOthers(
          kTag, to, absl::MakeSpan(lengths_).subspan(m * ranks_, ranks_), {});
      if (!receive.ok()) return receive.status();
      receives_.push_back(*std::move(receive));
    }
    return absl::OkStatus();
  }

  // The next frame, whose payload is at Payload(); with the last one of a message, that is sent.
  void EndFrame(size_t payload_bytes) {
    const Frame& frame = frames_[sealed_++];
    Item& item = items_[frame.item];
    Shard range = frame.range;
    range.size = payload_bytes;
    const size_t before = size_;
    runner_.Seal(context_, item, range, message_, &size_);
    item.bytes += (size_ - before) * (ranks_ - 1);
    if (sealed_ < messages_[sends_.size()].end) return;
    if (sent_.ok()) {
      const std::vector<transport::ConstBuffer> messages(ranks_, {.data = message_.data(), .bytes = size_});
      transport::OperationOr send = runner_.group_->SendToOthers(kTag, messages, {});
      sent_ = send.status();
      sends_.push_back(send.ok() ? *std::move(send) : nullptr);
    } else {
      sends_.push_back(nullptr);
    }
    message_.remove_prefix(size_);
    size_ = 0;
    if (sent_.ok()) sent_ = Poll();
  }
  wire::MutableBytes Payload() const { return message_.subspan(size_ + wire::kFrameHeaderBytes); }

  absl::Status Poll() { return PassEnded(receives_, &arrived_); }
  // Large messages move on only when their sender asks, too.
  absl::Status PollSends() { return PassEnded(sends_, &sends_ended_); }

  // --- This rank's entries.

  absl::Status EncodeItem(size_t i) {
    Item& item = items_[i];
    const Tensor& tensor = *item.tensor;
    if (stretches_[i].count == 1) {
      Shard shard = Range(0, tensor.elements);
      shard.out = Payload();
      if (absl::Status status = runner_.EncodeWhole(context_, &item, &shard); !status.ok()) return status;
      EndFrame(shard.size);
      return absl::OkStatus();
    }
    memory_.told.Resize(0);
    memory_.part.Resize(0);
    absl::Status status = runner_.EncodeEntries(context_, &item, this, &memory_.selected);
    if (!status.ok()) return status;
    const Timed encode(runner_.trace_, "encode", &item.tensor->stats.encode_ms);
    // Nothing more is told early, and perhaps nothing was.
    while (!IsLast(frames_[sealed_])) EndStretch(frames_[sealed_].range.end);
    Correct(memory_.told, memory_.selected, &memory_.rest, &memory_.taken_back);
    EndFrame(Pack(memory_.rest, tensor.elements));
    EndFrame(Pack(memory_.taken_back, tensor.elements));
    return absl::OkStatus();
  }

  // Into the message. Returns the payload's bytes.
  size_t Pack(const Entries& entries, size_t n) {
    const Item& item = items_[frames_[sealed_].item];
    return item.tensor->codec->Pack(item.params, n, entries.positions, entries.values, Payload());
  }

  // Encodes for nobody.
  void KeepInResidual(Item* item) {
    const Tensor& tensor = *item->tensor;
    Shard shard = Range(0, tensor.elements);
    shard.out = runner_.results_.Get(tensor.codec->MaxPayloadBytes(item->params, tensor.elements));
    // The first error is the one to report.
    (void)runner_.EncodeWhole(context_, item, &shard);
  }

  bool IsLast(const Frame& frame) const { return frame.range.end == items_[frame.item].tensor->elements; }

  size_t stretch() const override { return stretches_[frames_[sealed_].item].each; }

  void Add(uint32_t position, float value) override {
    const Frame& frame = frames_[sealed_];
    // What there is of the last stretch is sent in a moment anyway.
    if (IsLast(frame) || memory_.part.size() == stretches_[frame.item].most_told) return;
    memory_.part.Append(position - static_cast<uint32_t>(frame.range.begin), value);
    memory_.told.Append(position, value);
  }

  void EndStretch(size_t end) override {
    const Frame& frame = frames_[sealed_];
    if (IsLast(frame) || frame.range.end != end) return;
    const size_t size = Pack(memory_.part, stretch());
    memory_.part.Resize(0);
    EndFrame(size);
  }

  // --- What the others sent.

  absl::Status Await() {
    if (absl::Status status = ClearResults(); !status.ok()) return status;
    double waited_ms = 0;
    const Timed wait(runner_.trace_, "wait", &waited_ms);
    while (arrived_ < messages_.size()) {
      const size_t before = arrived_;
      const absl::StatusOr<bool> come =
          LookFor(runner_.patience_, *receives_.back(), [&]() -> absl::StatusOr<bool> {
            if (absl::Status status = Poll(); !status.ok()) return status;
            if (arrived_ > before) return true;
            if (absl::Status status = PollSends(); !status.ok()) return status;
            return false;
          });
      if (!come.ok()) return come.status();
      if (*come) continue;
      if (absl::Status status = receives_[arrived_]->Wait(runner_.patience_); !status.ok()) return status;
      ++arrived_;
    }
    return absl::OkStatus();
  }

  // Most of a result stays 0, and clearing it is most of decoding: it is done while the entries travel.
  absl::Status ClearResults() {
    for (Item& item : items_) {
      if (absl::Status status = Poll(); !status.ok()) return status;
      if (arrived_ == messages_.size()) break;  // what is left is cleared piece by piece as it is added to
      if (!ResultIsDirect(item)) continue;
      const Timed clear(runner_.trace_, "decode", &item.tensor->stats.decode_ms);
      absl::Span<float> rest = runner_.ResultSpan(item, nullptr);
      while (!rest.empty()) {
        const size_t piece = std::min(rest.size(), kClearedAtOnce);
        kernels::Clear(rest.first(piece), item.tensor->elements);
        rest.remove_prefix(piece);
        if (absl::Status status = Poll(); !status.ok()) return status;
      }
      item.cleared = true;
    }
    return absl::OkStatus();
  }

  // Checks all frames, before anything is decoded: a flag in the last rank's decides what the first rank's
  // are good for.
  absl::Status Take() {
    payloads_.resize(frames_.size() * ranks_);
    std::vector<wire::Bytes> rest(ranks_);
    const std::byte* at = received_.data();
    for (size_t m = 0; m < messages_.size(); ++m) {
      for (size_t r = 0; r < ranks_; ++r, at += messages_[m].capacity) {
        rest[r] = wire::Bytes(at, r == self_ ? 0 : lengths_[m * ranks_ + r]);
      }
      for (size_t f = messages_[m].first; f < messages_[m].end; ++f) {
        Item& item = items_[frames_[f].item];
        const Timed check(runner_.trace_, "check", &item.tensor->stats.decode_ms);
        for (size_t r = 0; r < ranks_; ++r) {
          if (r == self_) continue;
          absl::StatusOr<wire::Bytes> payload =
              runner_.TakeExpected(context_, &item, frames_[f].range, static_cast<int>(r), &rest[r]);
          if (!payload.ok()) return payload.status();
          payloads_[f * ranks_ + r] = *payload;
        }
      }
      if (absl::Status status = runner_.CheckAtEnd(rest); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status DecodeItem(size_t i) {
    Item& item = items_[i];
    const Timed decode(runner_.trace_, "decode", &item.tensor->stats.decode_ms);
    const absl::Span<float> result = runner_.ResultSpan(item, &runner_.output_);
    std::vector<wire::Bytes> payloads(ranks_);
    payloads[self_] = item.tensor->pending.payloads;
    absl::Status status;
    bool added = false;
    if (stretches_[i].count == 1) {
      for (size_t r = 0; r < ranks_; ++r) {
        if (r != self_) payloads[r] = payloads_[first_frame_[i] * ranks_ + r];
      }
    } else {
      absl::StatusOr<bool> direct = AddUpFrames(i, result);
      status = direct.status();
      added = direct.ok() && *direct;
      if (status.ok() && (!added || WantsUnion(item))) status = Join(i, absl::MakeSpan(payloads));
    }
    if (status.ok() && !added) status = AddUp(item, payloads, result);
    if (status.ok()) status = runner_.UnitePositions(&item, payloads);
    if (status.ok()) runner_.Finish(context_, &item, result);
    return status;
  }

  // Adds up the frames of a tensor in stretches, as they are. False, and nothing is done, where something was
  // taken back.
  absl::StatusOr<bool> AddUpFrames(size_t i, absl::Span<float> result) {
    const Item& item = items_[i];
    const Compressor& codec = *item.tensor->codec;
    const size_t rest = RestFrame(i);
    for (size_t r = 0; r < ranks_; ++r) {
      if (r == self_) continue;
      absl::Status status = TakenBack(i, r);
      if (!status.ok()) return runner_.From(r, status);
      if (memory_.taken_back.size() > 0) return false;
    }
    if (!item.cleared) kernels::Clear(result, result.size());
    for (size_t r = 0; r < ranks_; ++r) {
      const auto add = [&](wire::Bytes payload, const Shard& range) {
        return codec.Decode(item.params, payload, runner_.Weight(), Accumulate::kAdd,
                            result.subspan(range.begin, range.end - range.begin));
      };
      absl::Status status;
      if (r == self_) {
        status = add(item.tensor->pending.payloads, frames_[rest].range);
      } else {
        for (size_t f = first_frame_[i]; f <= rest && status.ok(); ++f) {
          status = add(payloads_[f * ranks_ + r], frames_[f].range);
        }
      }
      if (!status.ok()) return runner_.From(r, status);
    }
    return true;
  }

  // Of a tensor in stretches: the frame of what was not told early. Behind it comes that of what is taken
  // back.
  size_t RestFrame(size_t i) const { return first_frame_[i] + stretches_[i].count - 1; }

  absl::Status TakenBack(size_t i, size_t r) {
    const Item& item = items_[i];
    const size_t n = item.tensor->elements;
    const wire::Bytes payload = payloads_[(RestFrame(i) + 1) * ranks_ + r];
    // Mostly none, and then no room needs to be made.
    const bool none = payload.size() == item.tensor->codec->PackedBytes(item.params, n, 0);
    return Unpack(item, payload, n, none ? 0 : stretches_[i].MostToldOfAll(n), &memory_.taken_back);
  }

  // The others' payloads of a tensor in stretches, as if each had been sent whole.
  absl::Status Join(size_t i, absl::Span<wire::Bytes> payloads) {
    const Item& item = items_[i];
    const Compressor& codec = *item.tensor->codec;
    const size_t n = item.tensor->elements;
    wire::CodecParams plain = item.params;
    plain.index = wire::IndexCoding::kU32;
    plain.values = wire::ValueFormat::kFp32;
    const size_t each = codec.MaxPayloadBytes(plain, n);
    const wire::MutableBytes memory = runner_.results_.Get(each * ranks_);
    for (size_t r = 0; r < ranks_; ++r) {
      if (r == self_) continue;
      if (absl::Status status = JoinOne(i, r); !status.ok()) return runner_.From(r, status);
      const wire::MutableBytes out = memory.subspan(r * each, each);
      payloads[r] = out.first(codec.Pack(plain, n, memory_.selected.positions, memory_.selected.values, out));
    }
    return absl::OkStatus();
  }

  // What rank r selected.
  absl::Status JoinOne(size_t i, size_t r) {
    const Item& item = items_[i];
    const size_t n = item.tensor->elements;
    const size_t most = item.tensor->codec->MostEntries(item.params, n);
    const size_t rest = RestFrame(i);
    memory_.told.Resize(0);
    for (size_t f = first_frame_[i]; f < rest; ++f) {
      absl::Status status =
          Unpack(item, payloads_[f * ranks_ + r], stretches_[i].each, stretches_[i].most_told, &memory_.part);
      if (!status.ok()) return status;
      for (size_t e = 0; e < memory_.part.size(); ++e) {
        memory_.told.Append(memory_.part.positions[e] + static_cast<uint32_t>(frames_[f].range.begin),
                            memory_.part.values[e]);
      }
    }
    absl::Status status = Unpack(item, payloads_[rest * ranks_ + r], n, most, &memory_.rest);
    if (status.ok()) status = TakenBack(i, r);
    if (status.ok()) status = Corrected(memory_.told, memory_.rest, memory_.taken_back, &memory_.selected);
    if (status.ok() && memory_.selected.size() > most) {
      status = absl::DataLossError(
          absl::StrCat(memory_.selected.size(), " entries where ", most, " are the most"));
    }
    return status;
  }

  absl::Status AddUp(const Item& item, absl::Span<const wire::Bytes> payloads,
                     absl::Span<float> result) const {
    const Compressor& codec = *item.tensor->codec;
    if (!item.cleared) return codec.DecodeSum(item.params, payloads, runner_.Weight(), result);
    for (const wire::Bytes payload : payloads) {
      const absl::Status status =
          codec.Decode(item.params, payload, runner_.Weight(), Accumulate::kAdd, result);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  BatchRunner& runner_;
  const BatchContext& context_;
  const absl::Span<Item> items_;
  GatherMemory& memory_;
  const size_t self_;
  const size_t ranks_;

  std::vector<Frame> frames_;
  std::vector<Stretches> stretches_;  // of each item
  std::vector<size_t> first_frame_;   // of each item
  std::vector<Message> messages_;
  size_t capacity_ = 0;  // of the message that is being cut
  size_t all_capacity_ = 0;

  // What goes out: room for all that is still to be sent, of which the message under way has size_ bytes.
  wire::MutableBytes message_;
  size_t size_ = 0;
  size_t sealed_ = 0;  // frames: the next one is of the item that is being encoded
  absl::Status sent_;  // the first error of the transport: nothing more is sent
  std::vector<std::unique_ptr<transport::Operation>> sends_;  // by message
  size_t sends_ended_ = 0;

  // What comes: by message and rank.
  wire::MutableBytes received_;
  std::vector<size_t> lengths_;
  std::vector<std::unique_ptr<transport::Operation>> receives_;  // by message
  size_t arrived_ = 0;                                           // messages, from all ranks
  std::vector<wire::Bytes> payloads_;                            // by frame and rank
};

absl::Status BatchRunner::RunAllGather(const BatchContext& context, absl::Span<Item> items) {
  return AllGather(this, context, items).Run();
}

bool BatchRunner::CountsBuildUp(const Item& item) { return item.tensor->exchanges % kBuildUpInterval == 0; }

bool BatchRunner::WantsSupport(const Item& item) {
  const Tensor& tensor = *item.tensor;
  const size_t most = tensor.codec->MostEntries(item.params, tensor.elements);
  return most > 0 && most <= tensor.method->most_support();
}

absl::Status BatchRunner::UnitePositions(Item* item, absl::Span<const wire::Bytes> payloads) {
  if (!WantsUnion(*item)) return absl::OkStatus();
  Tensor& tensor = *item->tensor;
  const absl::Span<uint32_t> positions =
      positions_.Get(tensor.codec->MostEntries(item->params, tensor.elements));
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
  if (CountsBuildUp(*item)) {
    BuildUp& build_up = tensor.stats.build_up;
    build_up.selected += selected;
    build_up.distinct += support_.size();
    build_up.accepted += support_.size();
    ++build_up.exchanges;
  }
  if (WantsSupport(*item)) item->support = &support_;
  return absl::OkStatus();
}

}  // namespace terse::engine
