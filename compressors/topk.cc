// SPDX-License-Identifier: Apache-2.0
#include "compressors/topk.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "compressors/decode_groups.h"
#include "compressors/encode_args.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"
#include "compressors/kernels/vector.h"
#include "compressors/rice.h"
#include "compressors/select.h"
#include "compressors/topk_entries.h"
#include "compressors/topk_threshold.h"
#include "compressors/workers.h"

namespace terse {
namespace {

using topk::Entries;
using topk::kHeaderBytes;
using topk::LastThreshold;
using topk::ReadEntries;
using topk::ValueBytes;

constexpr size_t kChunk = 4096;                   // elements that a full selection collects at a time
constexpr size_t kDecodePiece = size_t{1} << 15;  // elements of `out` that stay in the L2 cache
constexpr size_t kLine = 16;                      // elements of a cache line, the unit of the sample

// A sampled threshold that too few elements pass is lowered at most so often (the authors' bound). Each time
// costs a read of the vector; the search of the whole vector, which comes after, costs twenty.
constexpr int kMostAdjustments = 10;
constexpr float kAdjustment = 0.8f;

// How one vector is selected from; a function of (n, k, rule) alone.
struct SelectionPlan {
  size_t stride = 0;    // one line in `stride` is sampled; 0: no sample, the whole vector is searched
  size_t sampled = 0;   // elements in the sample
  size_t rank = 0;      // of the threshold among them
  size_t capacity = 0;  // candidates that are kept
  size_t least = 0;     // candidates that are enough
  int adjustments = 0;  // of the threshold, when they are not
};

SelectionPlan PlanSelection(size_t n, size_t k, wire::SelectionRule rule) {
  const bool exact = rule == wire::SelectionRule::kExact;
  SelectionPlan plan;
  plan.capacity = k + kChunk;
  plan.least = exact ? k : k - k / 5;
  plan.adjustments = exact ? 0 : kMostAdjustments;
  // With h of the k largest expected in the sample, sqrt(h) is its deviation. From 32 of them on, a margin
  // of four deviations costs less than a larger sample. Where 80 % are enough, one is as safe as two.
  const double margin = exact ? 4.0 : 1.0;
  const size_t stride = std::clamp<size_t>(k / 32, 4, 256);
  const double hits = static_cast<double>(k) / static_cast<double>(stride);
  const size_t rank = static_cast<size_t>(hits + margin * std::sqrt(hits) + margin);
  const size_t sampled = n / kLine / stride * kLine;
  const size_t capacity = 2 * rank * stride + kChunk;
  if (rank >= sampled || capacity >= n / 2) return plan;
  plan.stride = stride;
  plan.sampled = sampled;
  plan.rank = rank;
  plan.capacity = std::max(plan.capacity, capacity);
  return plan;
}

// The caller's scratch, cut up.
struct Scratch {
  absl::Span<uint32_t> indices;  // candidates, in the end the selected
  absl::Span<float> values;
  absl::Span<uint32_t> histogram;
  absl::Span<float> sample;

  static size_t Bytes(const SelectionPlan& plan, size_t workers) {
    return (2 * plan.capacity * workers + kHistogramBins + plan.sampled) * 4;
  }
  Scratch(const SelectionPlan& plan, size_t workers, wire::MutableBytes bytes) {
    std::byte* at = bytes.data();
    const auto take = [&at]<typename T>(absl::Span<T>& span, size_t count) {
      span = {reinterpret_cast<T*>(at), count};
      at += count * sizeof(T);
    };
    take(indices, plan.capacity * workers);
    take(values, plan.capacity * workers);
    take(histogram, kHistogramBins);
    take(sample, plan.sampled);
  }
};

// A value as it arrives. Values are limited to the format's range.
float Rounded(wire::ValueFormat format, float value) {
  switch (format) {
    case wire::ValueFormat::kFp16:
      return kernels::FromFp16(kernels::ToFp16(value));
    case wire::ValueFormat::kBf16:
      return kernels::FromBf16(kernels::ToBf16(value));
    case wire::ValueFormat::kFp32:
      break;
  }
  return value;
}

// These return the end of what was written. Not by memcpy, which must not be given the null of no values.
template <typename T>
std::byte* StoreAll(absl::Span<const T> values, std::byte* to) {
  return std::copy_n(reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T), to);
}

std::byte* StoreValues(wire::ValueFormat format, absl::Span<const float> values, std::byte* to) {
  if (format == wire::ValueFormat::kFp32) return StoreAll(values, to);
  for (const float value : values) {
    wire::Store(to, format == wire::ValueFormat::kFp16 ? kernels::ToFp16(value) : kernels::ToBf16(value));
    to += sizeof(uint16_t);
  }
  return to;
}

// Selects the k largest of one compensated vector.
class Selector {
 public:
  Selector(const EncodeArgs& args, size_t k, const SelectionPlan& plan, wire::ValueFormat format)
      : input_(args.input),
        momentum_(args.momentum),
        residual_(args.residual),
        early_(args.early),
        k_(k),
        plan_(plan),
        format_(format),
        last_(args.state),
        workers_(WorkersFor(input_.size())),
        scratch_(plan, workers_, args.scratch),
        kernels_(kernels::ActiveKernels()) {}

  // Compensates, selects, rounds what was selected to the format and leaves the difference in the residual.
  // What rounds to 0 is not sent.
  void Run() {
    const size_t selected = Select();
    count_ = 0;
    for (size_t i = 0; i < selected; ++i) {
      const uint32_t position = scratch_.indices[i];
      const float value = scratch_.values[i];
      const float sent = Rounded(format_, value);
      if (sent == 0.0f) continue;
      if (!residual_.empty()) residual_[position] = value - sent;
      scratch_.indices[count_] = position;
      scratch_.values[count_] = sent;
      ++count_;
    }
  }

  // Of the last Run.
  bool nonfinite() const { return nonfinite_; }
  absl::Span<const uint32_t> positions() const { return scratch_.indices.first(count_); }
  absl::Span<const float> values() const { return scratch_.values.first(count_); }

 private:
  // Returns how many elements were selected: the first candidates in the scratch.
  size_t Select() {
    if (plan_.stride != 0) {
      if (const size_t count = FromCandidates()) return count;
    } else if (momentum_ != nullptr) {
      Collect(/*compensated=*/false, std::numeric_limits<float>::infinity());
    } else if (!residual_.empty()) {
      nonfinite_ = kernels_.compensate(input_.data(), residual_.data(), input_.size());
    } else {
      nonfinite_ = !kernels_.all_finite(input_.data(), input_.size());
    }
    return FromAll();
  }

  // A threshold that somewhat more than k elements should pass; never 0. `compensated`: as for Collect.
  float SampleThreshold(bool compensated) {
    float* to = scratch_.sample.data();
    for (size_t i = 0; i < plan_.sampled / kLine; ++i) {
      // Anywhere in its stretch of lines, so that a period in the data does not fall in with the stride.
      const size_t jitter = (i * 0x9e3779b1u >> 8) % plan_.stride;
      const size_t begin = (i * plan_.stride + jitter) * kLine;
      to = Sample(compensated, begin, to);
    }
    const Selection loose = SelectLargest(scratch_.sample, plan_.rank, scratch_.histogram);
    return std::bit_cast<float>(std::max(loose.magnitude, 1u));
  }

  // One line of c; returns the end of what was written.
  float* Sample(bool compensated, size_t begin, float* to) const {
    const float* const residual = residual_.empty() ? nullptr : residual_.data() + begin;
    if (compensated && residual != nullptr) return std::copy_n(residual, kLine, to);
    if (momentum_ != nullptr) {
      // Of a copy: u moves later.
      float u[kLine];
      kernels::Momentum line = momentum_->Behind(begin);
      std::copy_n(line.u, kLine, u);
      line.u = u;
      (void)kernels_.add_momentum(line, input_.data() + begin, to, kLine);
    } else {
      std::copy_n(input_.data() + begin, kLine, to);
    }
    for (size_t j = 0; residual != nullptr && j < kLine; ++j) to[j] += residual[j];
    return to + kLine;
  }

  // The candidates of the whole vector. Returns how many there are, perhaps more than were kept.
  size_t Collect(bool compensated, float threshold) {
    return CollectStretch(compensated, 0, input_.size(), threshold, 0);
  }

  // The same, and those that are almost surely selected are told on the way.
  size_t CollectAndTell(float threshold, float sure) {
    size_t found = 0;
    for (size_t begin = 0; begin < input_.size();) {
      const size_t end = std::min(input_.size(), begin + early_->stretch());
      const size_t before = std::min(found, plan_.capacity);
      found += CollectStretch(/*compensated=*/false, begin, end, threshold, before);
      for (size_t i = before; i < std::min(found, plan_.capacity); ++i) {
        if (std::abs(scratch_.values[i]) < sure) continue;
        const float sent = Rounded(format_, scratch_.values[i]);
        if (sent != 0.0f) early_->Add(scratch_.indices[i], sent);
      }
      early_->EndStretch(end);
      begin = end;
    }
    return found;
  }

  // The candidates of [begin, end), stored from `kept` on. Every worker has a stretch of it and room for as
  // many candidates as are kept of all.
  size_t CollectStretch(bool compensated, size_t begin, size_t end, float threshold, size_t kept) {
    if (workers_ == 1) return Collect(compensated, begin, end, threshold, kept, plan_.capacity);
    size_t counts[kMostWorkers];
    const size_t each = ((end - begin) / workers_ + kChunk - 1) / kChunk * kChunk;
    ForTasks(workers_, [&](size_t w) {
      const size_t first = std::min(end, begin + w * each);
      const size_t last = w + 1 == workers_ ? end : std::min(end, first + each);
      counts[w] = Collect(compensated, first, last, threshold, w == 0 ? kept : w * plan_.capacity,
                          (w + 1) * plan_.capacity);
    });
    const size_t found = std::accumulate(counts, counts + workers_, size_t{0});
    for (size_t w = 1, at = kept + counts[0]; w < workers_ && at < plan_.capacity; at += counts[w++]) {
      const size_t fits = std::min(counts[w], plan_.capacity - at);
      std::copy_n(scratch_.indices.data() + w * plan_.capacity, fits, scratch_.indices.data() + at);
      std::copy_n(scratch_.values.data() + w * plan_.capacity, fits, scratch_.values.data() + at);
    }
    return found;
  }

  // The candidates of [begin, end), stored from `kept` on as far as there is room before `room`.
  size_t Collect(bool compensated, size_t begin, size_t end, float threshold, size_t kept, size_t room) {
    kernels::Kernels::Gathered from;
    from.input = input_.data() + begin;
    from.residual = residual_.empty() ? nullptr : residual_.data() + begin;
    from.compensated = compensated;
    kernels::Momentum rest;
    if (momentum_ != nullptr && !compensated) {
      rest = momentum_->Behind(begin);
      from.momentum = &rest;
    }
    const kernels::Kernels::Collected found =
        kernels_.collect(from, end - begin, static_cast<uint32_t>(begin), threshold,
                         scratch_.indices.data() + kept, scratch_.values.data() + kept, room - kept);
    if (found.nonfinite) nonfinite_ = true;
    return found.count;
  }

  // One pass over the vector, one more when the last step's threshold misleads, and one for each adjustment
  // of the threshold. Returns 0 when that does not give enough candidates, or gives too many to keep; the
  // vector is compensated in any case.
  size_t FromCandidates() {
    float threshold = last_.Guess(k_);
    bool compensated = false;
    size_t found = 0;
    if (threshold > 0.0f) {
      found = early_ != nullptr ? CollectAndTell(threshold, last_.Sure(k_)) : Collect(compensated, threshold);
      compensated = true;
    }
    if (found < plan_.least || found > plan_.capacity) {
      threshold = SampleThreshold(compensated);
      found = Collect(compensated, threshold);
    }
    for (int i = 0; i < plan_.adjustments && found < plan_.least; ++i) {
      threshold = std::max(kAdjustment * threshold, std::numeric_limits<float>::denorm_min());
      found = Collect(/*compensated=*/true, threshold);
    }
    if (found < plan_.least || found > plan_.capacity) return 0;
    if (found <= k_) {
      last_.Update(k_, threshold);
      return found;
    }
    Selection selection = SelectLargest(scratch_.values.first(found), k_, scratch_.histogram);
    last_.Update(k_, std::bit_cast<float>(selection.magnitude));
    return Keep(selection, 0, 0, found);
  }

  // As many passes as it takes.
  size_t FromAll() {
    const absl::Span<const float> all = residual_.empty() ? input_ : residual_;
    Selection selection = SelectLargest(all, k_, scratch_.histogram);
    const float threshold = std::bit_cast<float>(std::max(selection.magnitude, 1u));
    size_t kept = 0;
    for (size_t begin = 0; begin < all.size() && kept < selection.count; begin += kChunk) {
      const size_t end = std::min(all.size(), begin + kChunk);
      const size_t found = Collect(/*compensated=*/true, begin, end, threshold, kept, plan_.capacity);
      kept = Keep(selection, kept, kept, kept + found);
    }
    return kept;
  }

  // Moves what belongs to the selection among [from, end) of the candidates to `to`; returns its end.
  size_t Keep(Selection& selection, size_t to, size_t from, size_t end) {
    for (size_t i = from; i < end; ++i) {
      if (!selection.Take(kernels::Magnitude(scratch_.values[i]))) continue;
      scratch_.indices[to] = scratch_.indices[i];
      scratch_.values[to] = scratch_.values[i];
      ++to;
    }
    return to;
  }

  absl::Span<const float> input_;
  const kernels::Momentum* momentum_;  // or null
  absl::Span<float> residual_;
  EarlyEntries* early_;  // or null
  size_t k_;
  SelectionPlan plan_;
  wire::ValueFormat format_;
  LastThreshold last_;
  size_t workers_;
  Scratch scratch_;
  const kernels::Kernels& kernels_;
  size_t count_ = 0;
  std::atomic<bool> nonfinite_ = false;
};

// Adds the entries below `end`. Few lie in one line of `out`, so lines are asked for a batch ahead.
template <bool kAssign>
void AddEntries(Entries* entries, size_t end, float weight, float* out) {
  constexpr size_t kBatch = 64;
  uint32_t positions[kBatch];
  float terms[kBatch];
  while (entries->position() < end) {
    size_t count = 0;
    for (; count < kBatch && entries->position() < end; entries->Advance(), ++count) {
      positions[count] = static_cast<uint32_t>(entries->position());
      terms[count] = weight * entries->value();
      __builtin_prefetch(out + positions[count], /*rw=*/1);
    }
    for (size_t i = 0; i < count; ++i) {
      float& to = out[positions[i]];
      // Assigned, not added to the zero there: a -0 stays one.
      to = kAssign ? terms[i] : to + terms[i];
    }
  }
}

absl::Status DecodeGroup(absl::Span<const wire::Bytes> payloads, float weight, kernels::Start start,
                         absl::Span<float> out) {
  Entries entries[kernels::kMaxPeers];
  size_t count = 0;
  for (size_t p = 0; p < payloads.size(); ++p) {
    entries[p].Open(payloads[p], out.size());
    count += entries[p].count();
  }
  // All payloads' entries of a piece of `out` while it is in the cache; with few, clearing all of `out` at
  // once is faster.
  const bool assign = start == kernels::Start::kAssign || start == kernels::Start::kStream;
  const size_t piece = count < out.size() / 16 ? out.size() : kDecodePiece;
  for (size_t begin = 0; begin < out.size(); begin += piece) {
    const size_t end = std::min(out.size(), begin + piece);
    if (start != kernels::Start::kAdd) {
      const absl::Span<float> cleared = out.subspan(begin, end - begin);
      ForRanges(cleared.size(), kernels::kLanes,
                [&](size_t from, size_t to) { kernels::Clear(cleared.subspan(from, to - from), piece); });
    }
    for (size_t p = 0; p < payloads.size(); ++p) {
      (assign ? AddEntries<true> : AddEntries<false>)(&entries[p], end, weight, out.data());
    }
  }
  for (size_t p = 0; p < payloads.size(); ++p) {
    if (!entries[p].status().ok()) return entries[p].status();
  }
  return absl::OkStatus();
}

}  // namespace

size_t TopKCount(double density, size_t n) {
  // 0.07 * 100 is 7.000000000000001 in fp64, and means 7.
  const double wanted = std::ceil(density * static_cast<double>(n) * (1.0 - 1e-12));
  if (!(wanted < static_cast<double>(n))) return n;
  return std::max<size_t>(static_cast<size_t>(wanted), std::min<size_t>(n, 1));
}

absl::Status TopK::CheckParams(const wire::CodecParams& params) const {
  if (!(params.density > 0.0 && params.density <= 1.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("topk.density is ", params.density, "; it must be above 0 and at most 1"));
  }
  if (params.index != wire::IndexCoding::kU32 && params.index != wire::IndexCoding::kRice) {
    return absl::InvalidArgumentError(
        absl::StrCat("topk.index is number ", static_cast<int>(params.index), "; it must be u32 or rice"));
  }
  if (params.selection > wire::SelectionRule::kSampled) {
    return absl::InvalidArgumentError(absl::StrCat(
        "topk.selection is number ", static_cast<int>(params.selection), "; it must be exact or sampled"));
  }
  if (params.values > wire::ValueFormat::kBf16) {
    return absl::InvalidArgumentError(absl::StrCat("topk.values is number ", static_cast<int>(params.values),
                                                   "; it must be fp32, fp16 or bf16"));
  }
  return absl::OkStatus();
}

size_t TopK::MaxPayloadBytes(const wire::CodecParams& params, size_t n) const {
  return PackedBytes(params, n, TopKCount(params.density, n));
}

size_t TopK::StateBytes(const wire::CodecParams& params, size_t n) const {
  return n == 0 ? 0 : LastThreshold::kBytes;
}

size_t TopK::ScratchBytes(const wire::CodecParams& params, size_t n) const {
  if (n == 0) return 0;
  return Scratch::Bytes(PlanSelection(n, TopKCount(params.density, n), params.selection), WorkersFor(n));
}

bool TopK::TellsEarly(const wire::CodecParams& params, size_t n) const {
  return PlanSelection(n, TopKCount(params.density, n), params.selection).stride != 0;
}

absl::StatusOr<EncodeResult> TopK::Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                          absl::Span<Shard> shards) const {
  if (absl::Status status = CheckEncodeArgs(*this, params, args, shards); !status.ok()) return status;
  const size_t n = args.input.size();
  if (n > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("topk encodes less than 2^32 elements; got ", n));
  }
  Shard& shard = shards[0];
  shard.size = 0;
  if (n == 0) return EncodeResult{};

  const size_t k = TopKCount(params.density, n);
  Selector selector(args, k, PlanSelection(n, k, params.selection), params.values);
  selector.Run();
  shard.size = Pack(params, n, selector.positions(), selector.values(), shard.out);
  return EncodeResult{selector.nonfinite()};
}

size_t TopK::MostEntries(const wire::CodecParams& params, size_t n) const {
  return TopKCount(params.density, n);
}

size_t TopK::PackedBytes(const wire::CodecParams& params, size_t n, size_t count) const {
  if (n == 0) return 0;
  size_t positions = count * sizeof(uint32_t);
  if (params.index == wire::IndexCoding::kRice) positions = std::min(positions, RiceMaxBytes(n, count));
  return kHeaderBytes + positions + count * ValueBytes(params.values);
}

size_t TopK::Pack(const wire::CodecParams& params, size_t n, absl::Span<const uint32_t> positions,
                  absl::Span<const float> values, wire::MutableBytes out) const {
  if (n == 0) return 0;
  std::byte* at = out.data() + kHeaderBytes;
  const size_t plain_bytes = positions.size() * sizeof(uint32_t);
  wire::IndexCoding coding = wire::IndexCoding::kU32;
  RicePlan rice;
  if (params.index == wire::IndexCoding::kRice) rice = PlanRice(n, positions);
  if (params.index == wire::IndexCoding::kRice && rice.bytes <= plain_bytes) {
    coding = wire::IndexCoding::kRice;
    EncodeRice(rice, positions, at);
    at += rice.bytes;
  } else {
    rice.parameter = 0;
    at = StoreAll(positions, at);
  }
  at = StoreValues(params.values, values, at);

  wire::Writer header(out);
  header.Put(static_cast<uint32_t>(positions.size()));
  header.Put(static_cast<uint8_t>(coding));
  header.Put(static_cast<uint8_t>(rice.parameter));
  header.Put(static_cast<uint8_t>(params.values));
  header.Put(uint8_t{0});
  return static_cast<size_t>(at - out.data());
}

absl::Status TopK::Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                          Accumulate accumulate, absl::Span<float> out) const {
  return DecodeGroup({&payload, 1}, weight, StartOf(accumulate), out);
}

absl::Status TopK::DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                             float weight, absl::Span<float> out) const {
  return DecodeSumByGroups(payloads, out, [&](absl::Span<const wire::Bytes> group, kernels::Start start) {
    return DecodeGroup(group, weight, start, out);
  });
}

absl::StatusOr<size_t> TopK::Support(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                     absl::Span<uint32_t> indices) const {
  return ReadEntries(payload, n, indices, [](size_t, float) {});
}

absl::StatusOr<size_t> TopK::Unpack(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                    absl::Span<uint32_t> positions, absl::Span<float> values) const {
  float* const to = values.data();
  return ReadEntries(payload, n, positions.first(std::min(positions.size(), values.size())),
                     [to](size_t i, float value) { to[i] = value; });
}

const Compressor& TopKCompressor() {
  static const auto* const compressor = new TopK;
  return *compressor;
}

}  // namespace terse
