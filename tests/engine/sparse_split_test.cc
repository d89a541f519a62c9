// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/exchange/sparse_split.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "gtest/gtest.h"

namespace terse::engine {
namespace {

using Positions = std::vector<uint32_t>;

// `count` different positions below n, ascending, the denser the nearer to 0 the greater `skew` is.
Positions Draw(size_t count, size_t n, double skew, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform;
  std::set<uint32_t> drawn;
  while (drawn.size() < count) {
    drawn.insert(static_cast<uint32_t>(std::pow(uniform(random), skew) * static_cast<double>(n)));
  }
  return {drawn.begin(), drawn.end()};
}

size_t CountIn(const Region& region, const Positions& positions) {
  return static_cast<size_t>(
      std::count_if(positions.begin(), positions.end(), [&](uint32_t p) { return region.Holds(p); }));
}

std::vector<Region> Cut(const std::vector<Positions>& selected, size_t n) {
  std::vector<Positions> samples;
  for (size_t r = 0; r < selected.size(); ++r) {
    samples.push_back(SamplePositions(selected[r], static_cast<int>(r), static_cast<int>(selected.size())));
  }
  return CutRegions(samples, n);
}

TEST(SparseSplit, RegionsCoverTheTensorAndHoldAboutAsManyEntries) {
  constexpr size_t kElements = 1'000'000;
  for (const size_t ranks : {2, 3, 4, 8, 16}) {
    for (const double skew : {1.0, 4.0}) {
      for (const bool alike : {false, true}) {
        std::vector<Positions> selected;
        for (size_t r = 0; r < ranks; ++r) {
          selected.push_back(Draw(4000, kElements, skew, static_cast<uint32_t>(alike ? 1 : r + 1)));
        }
        const std::vector<Region> regions = Cut(selected, kElements);
        ASSERT_EQ(regions.size(), ranks);
        size_t end = 0;
        for (const Region& region : regions) {
          EXPECT_EQ(region.begin, end);
          ASSERT_LE(region.begin, region.end);
          end = region.end;
          size_t entries = 0;
          for (const Positions& positions : selected) entries += CountIn(region, positions);
          EXPECT_NEAR(static_cast<double>(entries), 4000, 800) << ranks << " ranks, skew " << skew;
        }
        EXPECT_EQ(end, kElements);
      }
    }
  }
}

TEST(SparseSplit, RegionsOfFewOrNoEntries) {
  for (const Region& region : Cut({{}, {}, {}}, 30)) EXPECT_EQ(region.size(), 10u);
  const std::vector<Region> regions = Cut({{7}, {}, {}, {7}}, 9);
  EXPECT_EQ(regions.front().begin, 0u);
  EXPECT_EQ(regions.back().end, 9u);
  size_t holding = 0;
  for (const Region& region : regions) holding += region.Holds(7) ? 1 : 0;
  EXPECT_EQ(holding, 1u);
  EXPECT_EQ(Cut({{}, {}, {}, {}}, 3).back().end, 3u) << "less than an element each";
}

// Receivers make room by this bound, so no rank may have more.
TEST(SparseSplit, MostInIsABoundForEveryRegion) {
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    const size_t n = 50 + random() % 5000;
    const size_t k = 1 + random() % (n / 3);
    const size_t ranks = 1 + random() % 9;
    std::vector<Positions> selected;
    for (size_t r = 0; r < ranks; ++r) {
      const size_t count = random() % 4 == 0 ? random() % (k + 1) : k;
      selected.push_back(Draw(count, n, 1 + random() % 3, static_cast<uint32_t>(random())));
    }
    for (size_t r = 0; r < ranks; ++r) {
      const Positions samples = SamplePositions(selected[r], static_cast<int>(r), static_cast<int>(ranks));
      EXPECT_LE(samples.size(), kSamples);
      size_t most = 0;
      for (const Region& region : Cut(selected, n)) {
        ASSERT_LE(CountIn(region, selected[r]), MostIn(region, samples, k));
        most += MostIn(region, samples, k);
      }
      EXPECT_LE(most, k + (ranks + kSamples) * (k / kSamples + 1)) << "memory stays O(k)";
    }
  }
}

TEST(SparseSplit, WhatIsSentKeepsWithinTheBound) {
  for (const size_t ranks : {2, 3, 4, 7, 8, 64, 1024}) {
    const size_t peers = ranks - 1;
    // 3 frames of 56 bytes, 32 samples, two headers of payloads, a load.
    const size_t fixed = peers * (3 * 56 + 128 + 2 * 8 + 8);
    for (const size_t k : {8 * ranks, 100 * ranks + 17, 2000 * ranks}) {
      const size_t bound = 24 * k * peers / ranks;
      for (const size_t entry_bytes : {size_t{0}, 5 * k * peers / ranks, 8 * k}) {
        const size_t room = SumsRoom(k, static_cast<int>(ranks), entry_bytes);
        const size_t sent = entry_bytes + room * peers + (fixed <= bound / 8 ? fixed : 0);
        EXPECT_LE(sent, bound);
        EXPECT_GT(sent + peers, bound) << "it is used up";
        EXPECT_GE(room, k * 2 / ranks) << "some sums of every region, whatever was selected where";
        EXPECT_LE(room, MostSumsBytes(k, static_cast<int>(ranks)));
      }
    }
  }
  EXPECT_EQ(SumsRoom(1, 8, 20), 0u);
  EXPECT_EQ(MostSumsBytes(1, 8), 8u) << "a step forward, whatever the bound";
  EXPECT_EQ(SumsRoom(5, 1, 0), 40u) << "alone: all of it";
}

TEST(SparseSplit, PayloadsComeBackAndHostileOnesAreRefused) {
  const Positions samples = {3, 4, 90};
  std::vector<std::byte> bytes(SamplesBytes(samples.size()));
  PutSamples(samples, absl::MakeSpan(bytes));
  EXPECT_EQ(*GetSamples(bytes, 91), samples);
  EXPECT_TRUE(GetSamples({}, 91)->empty());
  EXPECT_EQ(GetSamples(bytes, 90).status().code(), absl::StatusCode::kDataLoss) << "beyond the tensor";
  EXPECT_FALSE(GetSamples(wire::Bytes(bytes).first(7), 91).ok()) << "cut off";
  std::swap(bytes[0], bytes[8]);
  EXPECT_FALSE(GetSamples(bytes, 91).ok()) << "not ascending";
  EXPECT_FALSE(GetSamples(std::vector<std::byte>(4 * kSamples + 4), 91).ok()) << "too many";

  const Load load{.received = 9, .distinct = 7};
  std::vector<std::byte> put(kLoadBytes + 3);
  PutLoad(load, absl::MakeSpan(put));
  wire::Bytes rest = put;
  EXPECT_EQ(*TakeLoad(&rest, 3, 3, 7), load);
  EXPECT_EQ(rest.size(), 3u);
  const auto refused = [&](size_t size, size_t k, size_t elements) {
    wire::Bytes hostile = wire::Bytes(put).first(size);
    return TakeLoad(&hostile, k, 3, elements).status().code() == absl::StatusCode::kDataLoss;
  };
  EXPECT_FALSE(refused(8, 3, 7));
  EXPECT_TRUE(refused(7, 3, 7)) << "cut off";
  EXPECT_TRUE(refused(8, 2, 7)) << "more received than was selected";
  EXPECT_TRUE(refused(8, 3, 6)) << "more positions than elements";
  put[0] = std::byte{6};
  EXPECT_TRUE(refused(8, 3, 7)) << "less received than distinct";
}

}  // namespace
}  // namespace terse::engine
