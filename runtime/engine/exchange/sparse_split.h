// SPDX-License-Identifier: Apache-2.0
//
// What the ranks of a sparse-reduce exchange reckon alike, without being told: where the regions of the
// tensor lie, and how much each rank may send. Pure functions of what all ranks have received, in integers,
// so that the ranks cannot differ.
//
// Balance. Every rank tells kSamples of its positions, evenly spread over its entries; the regions are cut so
// that each holds the same number of samples, and so about the same number of entries of all ranks.
//
// Bound. In one exchange a rank sends no more than 6k (N - 1) / N words of 4 bytes. What its entries left of
// that is for the sums of its region, the largest of them if not all fit: what is delivered is what training
// gains by, so the bound is used up (docs/decisions/0017).
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

// --- Round 3: sums.

// Bytes of sums, without headers, that a rank may hand to each other rank when `entry_bytes`, without headers
// too, went to owners. Headers and samples count where they are at most an eighth of the bound; in tensors so
// small that they are more, they come on top of it.
size_t SumsRoom(size_t k, int ranks, size_t entry_bytes);

// The most that any rank sends as sums, so that a receiver has room: SumsRoom, or the one sum that is always
// sent.
size_t MostSumsBytes(size_t k, int ranks);

// What came to the owner of a region, told in front of its sums.
struct Load {
  uint32_t received = 0;  // entries, its own too
  uint32_t distinct = 0;  // positions among them

  friend bool operator==(const Load&, const Load&) = default;
};
inline constexpr size_t kLoadBytes = 2 * sizeof(uint32_t);

void PutLoad(const Load& load, wire::MutableBytes out);
// DATA_LOSS for a load that no region of `elements` elements has. What follows it is left in `payload`.
absl::StatusOr<Load> TakeLoad(wire::Bytes* payload, size_t k, int ranks, size_t elements);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_SPARSE_SPLIT_H_
