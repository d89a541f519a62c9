// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/exchange/sparse_split.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace terse::engine {
namespace {

constexpr size_t kBlocksPerShare = 8;
constexpr size_t kSumsPerEntry = 2;  // that are accepted, of a rank's k entries
constexpr size_t kOfferHeaderBytes = 3 * sizeof(uint32_t);

size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }

// Sums of a block.
size_t BlockSums(size_t k, size_t ranks) { return std::max<size_t>(1, CeilDiv(k, kBlocksPerShare * ranks)); }

// The upper half of a magnitude: enough to rank blocks, within 1/128.
uint16_t Key(float x) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(std::fabs(x)) >> 16); }

// keys[i] is that of the (i + 1) `block`-th greatest sum, the last of the `offered`-th: by counting, for
// there are few different keys in a vector of gradients.
std::vector<uint16_t> BlockKeys(absl::Span<const float> sums, size_t offered, size_t block,
                                std::vector<uint32_t>* counts) {
  std::vector<uint16_t> keys;
  if (offered == 0) return keys;
  uint16_t least = UINT16_MAX;
  uint16_t most = 0;
  for (const float sum : sums) {
    least = std::min(least, Key(sum));
    most = std::max(most, Key(sum));
  }
  counts->assign(size_t{most} - least + 1, 0);
  uint32_t* const count = counts->data();
  for (const float sum : sums) ++count[Key(sum) - least];
  uint16_t key = most;
  size_t seen = count[key - least];
  for (size_t rank = std::min(block, offered);; rank = std::min(rank + block, offered)) {
    while (seen < rank) seen += count[--key - least];
    keys.push_back(key);
    if (rank == offered) return keys;
  }
}

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

size_t MostOffered(size_t k, int ranks, size_t sent) {
  if (ranks == 1) return k;
  const auto n = static_cast<size_t>(ranks);
  const size_t most = 3 * k * (n - 1);  // entries times N
  return std::max<size_t>(1, (most - std::min(most, sent * n)) / (n * (n - 1)));
}

Offer MakeOffer(size_t received, absl::Span<const float> sums, size_t most, size_t k, int ranks,
                std::vector<uint32_t>* counts) {
  Offer offer;
  offer.received = static_cast<uint32_t>(std::min<size_t>(received, UINT32_MAX));
  offer.distinct = static_cast<uint32_t>(sums.size());
  const auto zeros = static_cast<size_t>(std::count(sums.begin(), sums.end(), 0.0f));
  const size_t offered = std::min(most, sums.size() - zeros);
  offer.offered = static_cast<uint32_t>(offered);
  offer.magnitude = BlockKeys(sums, offered, BlockSums(k, static_cast<size_t>(ranks)), counts);
  return offer;
}

size_t OfferBytes(const Offer& offer) {
  return kOfferHeaderBytes + offer.magnitude.size() * sizeof(uint16_t);
}

size_t MaxOfferBytes(size_t k, int ranks) {
  const size_t blocks = CeilDiv(MostOffered(k, ranks, 0), BlockSums(k, static_cast<size_t>(ranks)));
  return kOfferHeaderBytes + blocks * sizeof(uint16_t);
}

void PutOffer(const Offer& offer, wire::MutableBytes out) {
  wire::Writer writer(out);
  writer.Put(offer.received);
  writer.Put(offer.distinct);
  writer.Put(offer.offered);
  for (const uint16_t magnitude : offer.magnitude) writer.Put(magnitude);
}

absl::StatusOr<Offer> GetOffer(wire::Bytes payload, size_t k, int ranks, size_t elements) {
  wire::Reader reader(payload);
  Offer offer;
  offer.received = reader.Get<uint32_t>();
  offer.distinct = reader.Get<uint32_t>();
  offer.offered = reader.Get<uint32_t>();
  const size_t block = BlockSums(k, static_cast<size_t>(ranks));
  const bool possible = reader.ok() && offer.received <= k * static_cast<size_t>(ranks) &&
                        offer.distinct <= std::min<size_t>(offer.received, elements) &&
                        offer.offered <= std::min<size_t>(offer.distinct, MostOffered(k, ranks, 0)) &&
                        reader.remaining() == CeilDiv(offer.offered, block) * sizeof(uint16_t);
  if (!possible) {
    return absl::DataLossError(absl::StrCat("an offer of ", offer.offered, " of ", offer.distinct,
                                            " sums of ", offer.received, " entries in ", payload.size(),
                                            " bytes, of a region of ", elements, " elements"));
  }
  offer.magnitude.resize(CeilDiv(offer.offered, block));
  for (uint16_t& magnitude : offer.magnitude) magnitude = reader.Get<uint16_t>();
  if (!std::is_sorted(offer.magnitude.rbegin(), offer.magnitude.rend())) {
    return absl::DataLossError("an offer whose blocks do not descend");
  }
  return offer;
}

std::vector<size_t> Quotas(absl::Span<const Offer> offers, size_t k) {
  struct Block {
    uint16_t magnitude;
    size_t owner;
  };
  std::vector<Block> blocks;
  for (size_t r = 0; r < offers.size(); ++r) {
    for (const uint16_t magnitude : offers[r].magnitude) blocks.push_back({magnitude, r});
  }
  // Stable: of equals, the lower positions' first, as in top-k itself.
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const Block& a, const Block& b) { return a.magnitude > b.magnitude; });
  const size_t block = BlockSums(k, offers.size());
  std::vector<size_t> quotas(offers.size(), 0);
  size_t left = kSumsPerEntry * k;
  for (const Block& next : blocks) {
    size_t& quota = quotas[next.owner];
    const size_t taken = std::min({block, left, offers[next.owner].offered - quota});
    quota += taken;
    left -= taken;
  }
  return quotas;
}

}  // namespace terse::engine
