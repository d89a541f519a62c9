// SPDX-License-Identifier: Apache-2.0
//
// Sparse reduce, for codecs that send entries: each rank sends and receives O(k), whatever the number of
// ranks.
//
//   1 samples   all-gather of samples of positions; the ranks cut the tensor into regions, one each
//   2 entries   each entry to the owner of its region, who adds up what comes for a position in rank order
//   3 sums      all-gather of the owners' sums, the largest if not all fit; they are the result, and all else
//               of it is 0
//
// What a rank selected at a place that was not accepted returns to its residual: it was not sent, and nothing
// that goes by what was sent (a step that is skipped, DGC's mask) sees it. Until round 3 is over everything
// counts as sent, so that an exchange that fails on the way returns all of it. sparse_split.h has the
// arithmetic.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compressors/kernels/floats.h"
#include "compressors/kernels/vector.h"
#include "compressors/select.h"
#include "runtime/engine/batch.h"

namespace terse::engine {

class BatchRunner::SparseReduce {
 public:
  SparseReduce(BatchRunner* runner, const BatchContext& context, absl::Span<Item> items)
      : runner_(*runner),
        context_(context),
        items_(items),
        self_(static_cast<size_t>(runner->group_->rank())),
        ranks_(static_cast<size_t>(runner->group_->size())) {
    if (runner_.sparse_parts_.size() < items.size()) runner_.sparse_parts_.resize(items.size());
    parts_ = absl::MakeSpan(runner_.sparse_parts_).first(items.size());
  }

  absl::Status Run() {
    for (size_t i = 0; i < items_.size(); ++i) {
      if (absl::Status status = Select(&items_[i], &parts_[i]); !status.ok()) return status;
    }
    if (absl::Status status = AgreeOnRegions(); !status.ok()) return status;
    if (absl::Status status = SendToOwners(); !status.ok()) return status;
    if (absl::Status status = SendToAll(); !status.ok()) return status;
    runner_.ShareTime(items_, exchange_ms_);
    for (size_t i = 0; i < items_.size(); ++i) {
      const Timed decode(runner_.trace_, "decode", &items_[i].tensor->stats.decode_ms);
      if (absl::Status status = ReadSums(&items_[i], &parts_[i]); !status.ok()) return status;
    }
    if (absl::Status status = runner_.CheckAtEnd(rest_); !status.ok()) return status;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Timed decode(runner_.trace_, "decode", &items_[i].tensor->stats.decode_ms);
      ReturnRejected(&items_[i], &parts_[i]);
      Deliver(&items_[i], parts_[i]);
    }
    return absl::OkStatus();
  }

 private:
  static Shard RangeOf(const Region& region, size_t payload_bytes) {
    return {.begin = region.begin, .end = region.end, .out = {}, .size = payload_bytes};
  }
  static Region Whole(const Item& item) { return {0, item.tensor->elements}; }
  // Sums travel in full, so that nothing is rounded but what a rank rounds of its own and keeps.
  static wire::CodecParams SumParams(const Item& item) {
    wire::CodecParams params = item.params;
    params.values = wire::ValueFormat::kFp32;
    return params;
  }

  // For a payload that stays here: positions as they are.
  static wire::CodecParams OwnParams(const Item& item) {
    wire::CodecParams params = item.params;
    params.index = wire::IndexCoding::kU32;
    return params;
  }

  // Encodes, and takes apart again what was encoded.
  absl::Status Select(Item* item, SparsePart* part) {
    part->k = item->tensor->codec->MostEntries(item->params, item->tensor->elements);
    return runner_.EncodeEntries(context_, item, nullptr, &part->own);
  }

  // --- The rounds. Each puts together the frames of all tensors, exchanges them, and reads what came.

  absl::Status AgreeOnRegions() {
    const size_t most = items_.size() * (wire::kFrameHeaderBytes + SamplesBytes(kSamples));
    Begin(most);
    for (size_t i = 0; i < items_.size(); ++i) {
      const std::vector<uint32_t> samples =
          SamplePositions(parts_[i].own.positions, runner_.group_->rank(), runner_.group_->size());
      PutSamples(samples, Payload());
      Seal(&items_[i], RangeOf(Whole(items_[i]), SamplesBytes(samples.size())), ranks_ - 1);
    }
    if (absl::Status status = Gather(std::vector<size_t>(ranks_, most)); !status.ok()) return status;
    for (size_t i = 0; i < items_.size(); ++i) {
      SparsePart& part = parts_[i];
      const size_t n = items_[i].tensor->elements;
      part.samples.resize(ranks_);
      for (size_t r = 0; r < ranks_; ++r) {
        absl::StatusOr<wire::Bytes> payload = Take(&items_[i], Whole(items_[i]), r);
        if (!payload.ok()) return payload.status();
        absl::StatusOr<std::vector<uint32_t>> samples = GetSamples(*payload, n);
        if (!samples.ok()) return runner_.From(r, samples.status());
        part.samples[r] = *std::move(samples);
      }
      part.regions = CutRegions(part.samples, n);
      part.most.resize(ranks_);
      for (size_t r = 0; r < ranks_; ++r) part.most[r] = MostIn(Own(part), part.samples[r], part.k);
    }
    return runner_.CheckAtEnd(rest_);
  }

  absl::Status SendToOwners() {
    size_t most = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Region whole = Whole(items_[i]);
      most += ranks_ * (wire::kFrameHeaderBytes + Packed(items_[i], items_[i].params, whole, 0)) +
              Packed(items_[i], OwnParams(items_[i]), whole, parts_[i].own.size());
      parts_[i].entry_bytes = 0;
    }
    Begin(most);
    std::vector<transport::ConstBuffer> from;
    for (size_t r = 0; r < ranks_; ++r) {
      const size_t begin = at_;
      for (size_t i = 0; i < items_.size(); ++i) {
        const Timed pack(runner_.trace_, "encode", &items_[i].tensor->stats.encode_ms);
        const Region region = parts_[i].regions[r];
        const size_t size = PackEntriesOf(region, items_[i], &parts_[i]);
        Seal(&items_[i], RangeOf(region, size), r == self_ ? 0 : 1);
        if (r != self_) parts_[i].entry_bytes += size - Packed(items_[i], items_[i].params, region, 0);
      }
      from.push_back({.data = message_.data() + begin, .bytes = at_ - begin});
    }
    std::vector<size_t> capacities(ranks_, 0);
    for (size_t r = 0; r < ranks_; ++r) {
      for (size_t i = 0; i < items_.size(); ++i) {
        capacities[r] +=
            wire::kFrameHeaderBytes + Packed(items_[i], items_[i].params, Own(parts_[i]), parts_[i].most[r]);
      }
    }
    const absl::Status status =
        Exchange(capacities, [&](absl::Span<const transport::Buffer> to, absl::Span<size_t> lengths) {
          return runner_.group_->Alltoallv(from, to, lengths, {});
        });
    if (!status.ok()) return status;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Timed sum(runner_.trace_, "sum", &items_[i].tensor->stats.decode_ms);
      if (absl::Status reduced = Reduce(&items_[i], &parts_[i]); !reduced.ok()) return reduced;
    }
    return runner_.CheckAtEnd(rest_);
  }

  absl::Status SendToAll() {
    const int ranks = runner_.group_->size();
    size_t most = 0;
    for (size_t i = 0; i < items_.size(); ++i) most += MostSumsMessage(items_[i], parts_[i]);
    Begin(most);
    for (size_t i = 0; i < items_.size(); ++i) {
      const Timed pack(runner_.trace_, "encode sum", &items_[i].tensor->stats.encode_ms);
      SparsePart& part = parts_[i];
      PutLoad({.received = static_cast<uint32_t>(part.received.size()),
               .distinct = static_cast<uint32_t>(part.sums.size())},
              Payload());
      KeepLargest(items_[i], SumsRoom(part.k, ranks, part.entry_bytes), Own(part), &part.sums);
      const size_t size = kLoadBytes + Pack(items_[i], SumParams(items_[i]), Own(part), part.sums.positions,
                                            part.sums.values, Payload().subspan(kLoadBytes));
      Seal(&items_[i], RangeOf(Own(part), size), ranks_ - 1);
    }
    return Gather(std::vector<size_t>(ranks_, most));
  }

  // --- One tensor's part.

  // Into the message: what this rank selected of a region. Returns the payload's bytes.
  size_t PackEntriesOf(const Region& region, const Item& item, SparsePart* part) const {
    const Entries& own = part->own;
    const auto first = std::lower_bound(own.positions.begin(), own.positions.end(), region.begin);
    const auto last = std::lower_bound(first, own.positions.end(), region.end);
    part->relative.assign(first, last);
    for (uint32_t& position : part->relative) position -= static_cast<uint32_t>(region.begin);
    const auto values =
        absl::MakeConstSpan(own.values)
            .subspan(static_cast<size_t>(first - own.positions.begin()), part->relative.size());
    return Pack(item, item.params, region, part->relative, values, Payload());
  }

  // The sums of the own region, in rank order.
  absl::Status Reduce(Item* item, SparsePart* part) {
    const Region own = Own(*part);
    part->received.Resize(std::accumulate(part->most.begin(), part->most.end(), size_t{0}));
    part->ends.resize(ranks_);
    part->set.Reset(own.size());
    size_t end = 0;
    for (size_t r = 0; r < ranks_; ++r) {
      absl::StatusOr<wire::Bytes> payload = Take(item, own, r);
      if (!payload.ok()) return payload.status();
      const absl::Span<uint32_t> positions =
          absl::MakeSpan(part->received.positions).subspan(end, part->most[r]);
      const absl::StatusOr<size_t> count =
          item->tensor->codec->Unpack(item->params, *payload, own.size(), positions,
                                      absl::MakeSpan(part->received.values).subspan(end, part->most[r]));
      if (!count.ok()) return runner_.From(r, count.status());
      part->set.Insert(positions.first(*count));
      // Closed up, so that entries follow each other.
      end += *count;
      part->ends[r] = end;
    }
    part->received.Resize(end);
    part->sums.Resize(part->set.Count());
    part->set.CopyTo(part->sums.positions.data());
    std::fill(part->sums.values.begin(), part->sums.values.end(), 0.0f);
    const float weight = runner_.Weight();
    const uint32_t* const position = part->received.positions.data();
    const float* const value = part->received.values.data();
    float* const sum = part->sums.values.data();
    for (size_t e = 0; e < end; ++e) sum[part->set.IndexOf(position[e])] += weight * value[e];
    for (size_t i = 0; i < part->sums.size(); ++i) {
      if (std::isfinite(sum[i])) continue;
      // Finite entries whose sum is not: all ranks learn of it from the frame of the sums.
      item->nonfinite = true;
      sum[i] = 0.0f;
    }
    return absl::OkStatus();
  }

  // Of the sums that are not 0 the largest, as many as surely fit into `room` bytes, and one in any case.
  void KeepLargest(const Item& item, size_t room, const Region& region, Entries* sums) const {
    const wire::CodecParams params = SumParams(item);
    const size_t header = Packed(item, params, region, 0);
    size_t quota =
        sums->size() - static_cast<size_t>(std::count(sums->values.begin(), sums->values.end(), 0.0f));
    if (Packed(item, params, region, quota) - header > room) {
      // Between what fits and what does not.
      size_t fits = 1;
      while (quota - fits > 1) {
        const size_t middle = fits + (quota - fits) / 2;
        (Packed(item, params, region, middle) - header > room ? quota : fits) = middle;
      }
      quota = fits;
    }
    size_t kept = 0;
    if (quota > 0) {
      Selection selection = SelectLargest(sums->values, quota, runner_.positions_.Get(kHistogramBins));
      for (size_t i = 0; i < sums->size(); ++i) {
        if (!selection.Take(kernels::Magnitude(sums->values[i]))) continue;
        sums->positions[kept] = sums->positions[i];
        sums->values[kept] = sums->values[i];
        ++kept;
      }
    }
    sums->Resize(kept);
  }

  absl::Status ReadSums(Item* item, SparsePart* part) {
    const size_t most = MostSumsBytes(part->k, runner_.group_->size()) / sizeof(float);
    part->accepted.Resize(ranks_ * most);
    part->loads.resize(ranks_);
    size_t end = 0;
    for (size_t r = 0; r < ranks_; ++r) {
      const Region region = part->regions[r];
      absl::StatusOr<wire::Bytes> payload = Take(item, region, r);
      if (!payload.ok()) return payload.status();
      const absl::StatusOr<Load> load = TakeLoad(&*payload, part->k, runner_.group_->size(), region.size());
      if (!load.ok()) return runner_.From(r, load.status());
      part->loads[r] = *load;
      const absl::Span<uint32_t> positions = absl::MakeSpan(part->accepted.positions).subspan(end, most);
      const absl::StatusOr<size_t> count =
          item->tensor->codec->Unpack(SumParams(*item), *payload, region.size(), positions,
                                      absl::MakeSpan(part->accepted.values).subspan(end, most));
      if (!count.ok()) return runner_.From(r, count.status());
      if (*count > load->distinct) {
        return runner_.From(
            r, absl::DataLossError(absl::StrCat(*count, " sums of ", load->distinct, " positions")));
      }
      for (uint32_t& position : positions.first(*count)) position += static_cast<uint32_t>(region.begin);
      end += *count;
    }
    part->accepted.Resize(end);
    return absl::OkStatus();
  }

  // What was selected at places that were not accepted goes home; the rest is what this rank has sent.
  static void ReturnRejected(Item* item, SparsePart* part) {
    Tensor& tensor = *item->tensor;
    const absl::Span<float> residual = tensor.method->residual();
    Entries& own = part->own;
    const uint32_t* accepted = part->accepted.positions.data();
    const uint32_t* const end = accepted + part->accepted.size();
    size_t kept = 0;
    for (size_t e = 0; e < own.size(); ++e) {
      const uint32_t position = own.positions[e];
      while (accepted != end && *accepted < position) ++accepted;
      if (accepted != end && *accepted == position) {
        own.positions[kept] = position;
        own.values[kept++] = own.values[e];
      } else if (!residual.empty()) {
        // Nothing is left there but what rounding cut off.
        residual.data()[position] += own.values[e];
      }
    }
    own.Resize(kept);
    Tensor::Pending& pending = tensor.pending;
    pending.payloads.resize(Packed(*item, item->params, Whole(*item), kept));
    pending.payloads.resize(
        Pack(*item, item->params, Whole(*item), own.positions, own.values, absl::MakeSpan(pending.payloads)));
    tensor.method->AfterEncode(own.positions);
  }

  void Deliver(Item* item, const SparsePart& part) {
    const absl::Span<float> result = runner_.ResultSpan(*item, &runner_.output_);
    kernels::Clear(result, result.size());
    float* const out = result.data();
    for (size_t e = 0; e < part.accepted.size(); ++e)
      out[part.accepted.positions[e]] = part.accepted.values[e];
    BuildUp& build_up = item->tensor->stats.build_up;
    ++build_up.exchanges;
    build_up.accepted += part.accepted.size();
    uint32_t busiest = 0;
    for (const Load& load : part.loads) {
      build_up.selected += load.received;
      build_up.distinct += load.distinct;
      busiest = std::max(busiest, load.received);
    }
    build_up.busiest += busiest;
    runner_.Finish(context_, item, result);
  }

  // --- Messages.

  Region Own(const SparsePart& part) const { return part.regions[self_]; }

  static size_t Packed(const Item& item, const wire::CodecParams& params, const Region& region,
                       size_t count) {
    return item.tensor->codec->PackedBytes(params, region.size(), count);
  }
  size_t MostSumsMessage(const Item& item, const SparsePart& part) const {
    return wire::kFrameHeaderBytes + kLoadBytes + Packed(item, SumParams(item), Whole(item), 0) +
           MostSumsBytes(part.k, runner_.group_->size());
  }
  static size_t Pack(const Item& item, const wire::CodecParams& params, const Region& region,
                     absl::Span<const uint32_t> positions, absl::Span<const float> values,
                     wire::MutableBytes out) {
    return item.tensor->codec->Pack(params, region.size(), positions, values, out);
  }

  // A message of at most so many bytes, which frames are put into one after the other.
  void Begin(size_t most) {
    message_ = runner_.send_.Get(most);
    at_ = 0;
  }
  wire::MutableBytes Payload() const { return message_.subspan(at_ + wire::kFrameHeaderBytes); }
  // Ends a frame whose payload is there; it goes to `copies` ranks.
  void Seal(Item* item, const Shard& range, size_t copies) {
    const size_t before = at_;
    runner_.Seal(context_, *item, range, message_, &at_);
    item->bytes += copies * (at_ - before);
  }

  absl::Status Gather(const std::vector<size_t>& capacities) {
    return Exchange(capacities, [&](absl::Span<const transport::Buffer> to, absl::Span<size_t> lengths) {
      return runner_.group_->Allgatherv({.data = message_.data(), .bytes = at_}, to, lengths, {});
    });
  }

  // start(to, lengths) begins a collective; what rank r sent is in rest_[r] afterwards.
  template <typename Start>
  absl::Status Exchange(const std::vector<size_t>& capacities, const Start& start) {
    const Timed wait(runner_.trace_, "wait", &exchange_ms_);
    const absl::Span<std::byte> memory =
        runner_.receive_.Get(std::accumulate(capacities.begin(), capacities.end(), size_t{0}));
    std::vector<transport::Buffer> to(ranks_);
    std::byte* at = memory.data();
    for (size_t r = 0; r < ranks_; at += capacities[r++]) to[r] = {.data = at, .bytes = capacities[r]};
    std::vector<size_t> lengths(ranks_, 0);
    if (absl::Status status = runner_.WaitFor(start(to, absl::MakeSpan(lengths))); !status.ok())
      return status;
    rest_.resize(ranks_);
    for (size_t r = 0; r < ranks_; ++r) {
      rest_[r] = wire::Bytes(static_cast<const std::byte*>(to[r].data), lengths[r]);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<wire::Bytes> Take(Item* item, const Region& region, size_t r) {
    return runner_.TakeExpected(context_, item, RangeOf(region, 0), static_cast<int>(r), &rest_[r]);
  }

  BatchRunner& runner_;
  const BatchContext& context_;
  const absl::Span<Item> items_;
  const size_t self_;
  const size_t ranks_;
  absl::Span<SparsePart> parts_;
  wire::MutableBytes message_;
  size_t at_ = 0;
  std::vector<wire::Bytes> rest_;
  double exchange_ms_ = 0;
};

absl::Status BatchRunner::RunSparseReduce(const BatchContext& context, absl::Span<Item> items) {
  return SparseReduce(this, context, items).Run();
}

}  // namespace terse::engine
