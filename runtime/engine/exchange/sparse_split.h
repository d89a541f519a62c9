// SPDX-License-Identifier: Apache-2.0
//
// What the ranks of a sparse-reduce exchange reckon alike, without being told: where the regions of the
// tensor lie, how much of each may be sent at most, and how many of its sums each owner hands to all. Pure
// functions of what all ranks have received, in integers, so that the ranks cannot differ.
//
// Balance. Every rank tells kSamples of its positions, evenly spread over its entries; the regions are cut so
// that each holds the same number of samples, and so about the same number of entries of all ranks.
//
// Choice. The owner of a region sorts its sums by magnitude into blocks of 1/8 of a fair share, k / N, and
// tells the magnitude that each block goes down to. The greatest blocks of all regions are accepted until
// there are 2k sums: the largest, but for at most a block of each region and for what the bound forbids. What
// is delivered is what training gains by, so the bound is used up: docs/decisions/0017 has what k sums cost.
//
// Bound. A rank that has sent s entries to owners (at most k) offers no more than it may send to all within
// 3k (N - 1) / N entries sent, that is 6k (N - 1) / N words: at least k / N of its sums, at most 3k / N.
// Source: Ok-Topk (Li and Hoefler, PPoPP 2022), whose regions and thresholds are estimates of earlier steps;
// reference: dgc.md section 7.
#ifndef TERSE_RUNTIME_ENGINE_EXCHANGE_SPARSE_SPLIT_H_
#define TERSE_RUNTIME_ENGINE_EXCHANGE_SPARSE_SPLIT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/bytes.h"

namespace terse::engine {

// A half-open range of elements.
struct Region {
  size_t begin = 0;
  size_t end = 0;

  size_t size() const { return end - begin; }
  bool Holds(uint32_t position) const { return begin <= position && position < end; }
};

// --- Round 1: samples of positions.

inline constexpr size_t kSamples = 32;

// At most kSamples of the ascending positions. Ranks begin at different places, so that equal positions on
// all ranks are told at N times the resolution.
std::vector<uint32_t> SamplePositions(absl::Span<const uint32_t> positions, int rank, int ranks);

// The payload: the samples, u32 each. DATA_LOSS for what SamplePositions does not give for n elements.
size_t SamplesBytes(size_t count);
void PutSamples(absl::Span<const uint32_t> samples, wire::MutableBytes out);
absl::StatusOr<std::vector<uint32_t>> GetSamples(wire::Bytes payload, size_t n);

// The regions of rank 0, 1, ...: in order, without gaps, of n elements; perhaps empty.
std::vector<Region> CutRegions(absl::Span<const std::vector<uint32_t>> samples, size_t n);

// The most entries in `region` of a rank that has at most k and told these samples.
size_t MostIn(const Region& region, absl::Span<const uint32_t> samples, size_t k);

// --- Round 3: offers of sums.

// What the owner of a region says of its sums.
struct Offer {
  uint32_t received = 0;            // entries, its own too
  uint32_t distinct = 0;            // positions among them
  uint32_t offered = 0;             // sums that are not 0 and may be sent
  std::vector<uint16_t> magnitude;  // upper half of the least |sum| of each block, descending

  friend bool operator==(const Offer&, const Offer&) = default;
};

// Sums that a rank may hand to all when it has sent so many entries to owners; at least 1.
size_t MostOffered(size_t k, int ranks, size_t sent);

// `received` and what follows from the sums, of which `most` are offered. Sums are finite. `counts`: any
// content.
Offer MakeOffer(size_t received, absl::Span<const float> sums, size_t most, size_t k, int ranks,
                std::vector<uint32_t>* counts);

// DATA_LOSS for an offer that no owner of a region of `elements` elements makes.
size_t OfferBytes(const Offer& offer);
size_t MaxOfferBytes(size_t k, int ranks);
void PutOffer(const Offer& offer, wire::MutableBytes out);
absl::StatusOr<Offer> GetOffer(wire::Bytes payload, size_t k, int ranks, size_t elements);

// How many of its greatest sums each owner hands to all: at most what it offered, 2k together or all there
// are.
std::vector<size_t> Quotas(absl::Span<const Offer> offers, size_t k);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_SPARSE_SPLIT_H_
