// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/exchange/sparse_split.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/wire/frame.h"

namespace terse::engine {
namespace {

constexpr size_t kWordsPerEntry = 6;   // of the bound
constexpr size_t kMostEntryBytes = 8;  // of a position and a value

// Headers and samples that each other rank is sent: three frames, in two of them a payload of entries.
constexpr size_t kPayloadHeaderBytes = 8;
constexpr size_t kFixedBytes =
    3 * wire::kFrameHeaderBytes + kSamples * sizeof(uint32_t) + 2 * kPayloadHeaderBytes + kLoadBytes;

size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace

std::vector<uint32_t> SamplePositions(absl::Span<const uint32_t> positions, int rank, int ranks) {
  const size_t count = std::min(positions.size(), kSamples);
  const auto self = static_cast<size_t>(rank);
  const auto size = static_cast<size_t>(ranks);
  std::vector<uint32_t> samples(count);
  for (size_t i = 0; i < count; ++i) {
    // At (i + (rank + 1/2) / ranks) / count of the way.
    samples[i] = positions[(2 * (i * size + self) + 1) * positions.size() / (2 * size * count)];
  }
  return samples;
}

size_t SamplesBytes(size_t count) { return count * sizeof(uint32_t); }

void PutSamples(absl::Span<const uint32_t> samples, wire::MutableBytes out) {
  wire::Writer writer(out);
  for (const uint32_t sample : samples) writer.Put(sample);
}

absl::StatusOr<std::vector<uint32_t>> GetSamples(wire::Bytes payload, size_t n) {
  if (payload.size() % sizeof(uint32_t) != 0 || payload.size() > SamplesBytes(kSamples)) {
    return absl::DataLossError(absl::StrCat("samples of positions in ", payload.size(), " bytes"));
  }
  std::vector<uint32_t> samples(payload.size() / sizeof(uint32_t));
  wire::Reader reader(payload);
  for (uint32_t& sample : samples) {
    sample = reader.Get<uint32_t>();
    if (sample >= n || (&sample != samples.data() && sample <= *(&sample - 1))) {
      return absl::DataLossError(
          absl::StrCat("a sample of positions is ", sample, "; they ascend and are below ", n));
    }
  }
  return samples;
}

std::vector<Region> CutRegions(absl::Span<const std::vector<uint32_t>> samples, size_t n) {
  std::vector<uint32_t> all;
  for (const std::vector<uint32_t>& of_rank : samples) all.insert(all.end(), of_rank.begin(), of_rank.end());
  std::sort(all.begin(), all.end());
  const size_t ranks = samples.size();
  std::vector<Region> regions(ranks);
  for (size_t r = 1; r < ranks; ++r) {
    // Without entries anywhere: equal parts.
    const size_t cut = all.empty() ? r * (n / ranks) : all[r * all.size() / ranks];
    regions[r - 1].end = cut;
    regions[r].begin = cut;
  }
  regions.back().end = n;
  return regions;
}

size_t MostIn(const Region& region, absl::Span<const uint32_t> samples, size_t k) {
  const auto inside = static_cast<size_t>(
      std::count_if(samples.begin(), samples.end(), [&](uint32_t sample) { return region.Holds(sample); }));
  // Few entries are told all; else one in `gap` at least, also before the first and behind the last.
  const size_t gap = CeilDiv(k, kSamples);
  return std::min(samples.size() < kSamples ? inside : (inside + 1) * gap, std::min(k, region.size()));
}

size_t SumsRoom(size_t k, int ranks, size_t entry_bytes) {
  if (ranks == 1) return k * kMostEntryBytes;
  const auto n = static_cast<size_t>(ranks);
  const size_t bound = kWordsPerEntry * sizeof(float) * k * (n - 1) / n;
  const size_t fixed = (n - 1) * kFixedBytes;
  const size_t spent = entry_bytes + (fixed <= bound / 8 ? fixed : 0);
  return (bound - std::min(bound, spent)) / (n - 1);
}

size_t MostSumsBytes(size_t k, int ranks) { return std::max(SumsRoom(k, ranks, 0), kMostEntryBytes); }

void PutLoad(const Load& load, wire::MutableBytes out) {
  wire::Writer writer(out);
  writer.Put(load.received);
  writer.Put(load.distinct);
}

absl::StatusOr<Load> TakeLoad(wire::Bytes* payload, size_t k, int ranks, size_t elements) {
  wire::Reader reader(*payload);
  Load load;
  load.received = reader.Get<uint32_t>();
  load.distinct = reader.Get<uint32_t>();
  if (!reader.ok() || load.received > k * static_cast<size_t>(ranks) ||
      load.distinct > std::min<size_t>(load.received, elements)) {
    return absl::DataLossError(absl::StrCat("a load of ", load.received, " entries at ", load.distinct,
                                            " positions in ", payload->size(), " bytes, of a region of ",
                                            elements, " elements"));
  }
  *payload = payload->subspan(kLoadBytes);
  return load;
}

}  // namespace terse::engine
