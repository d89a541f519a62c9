// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/exchange/sparse_split.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "gmock/gmock.h"
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

TEST(SparseSplit, OffersKeepWithinTheBoundOfWhatIsSent) {
  for (const size_t ranks : {2, 3, 4, 7, 8, 64, 1024}) {
    for (const size_t k : {8 * ranks, 100 * ranks + 17}) {
      const double bound = 3.0 * static_cast<double>(k * (ranks - 1)) / static_cast<double>(ranks);
      for (const size_t sent : {size_t{0}, k - k / ranks, k}) {
        const size_t most = MostOffered(k, static_cast<int>(ranks), sent);
        EXPECT_LE(static_cast<double>(sent + most * (ranks - 1)), bound);
        EXPECT_GE(most, k / ranks) << "every region has its fair share";
      }
    }
  }
  EXPECT_EQ(MostOffered(1, 8, 1), 1u) << "a step forward, whatever the bound";
  EXPECT_EQ(MostOffered(5, 1, 5), 5u);
}

// Sums of each region, drawn so that regions differ in size.
std::vector<std::vector<float>> DrawSums(size_t ranks, size_t each, double spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> sums(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    const auto scale = static_cast<float>(std::exp(spread * static_cast<double>(r)));
    for (size_t i = 0; i < each; ++i) sums[r].push_back(scale * normal(random));
  }
  return sums;
}

TEST(SparseSplit, QuotasTakeTheLargestButForABlockOfEachRegion) {
  for (const size_t ranks : {2, 4, 8}) {
    const size_t k = 800;
    for (const double spread : {0.0, 0.1, 3.0}) {
      const auto sums = DrawSums(ranks, 2400 / ranks, spread, 3);
      std::vector<Offer> offers;
      std::vector<uint32_t> counts;
      std::vector<float> all;
      const size_t most = MostOffered(k, static_cast<int>(ranks), 0);
      for (const std::vector<float>& of_region : sums) {
        offers.push_back(MakeOffer(700, of_region, most, k, static_cast<int>(ranks), &counts));
        for (const float sum : of_region) all.push_back(std::fabs(sum));
      }
      const std::vector<size_t> quotas = Quotas(offers, k);
      EXPECT_EQ(std::accumulate(quotas.begin(), quotas.end(), size_t{0}), 2 * k);
      std::nth_element(all.begin(), all.begin() + 2 * k - 1, all.end(), std::greater<>());
      const float threshold = all[2 * k - 1];
      const size_t block = (k + 8 * ranks - 1) / (8 * ranks);
      for (size_t r = 0; r < ranks; ++r) {
        ASSERT_LE(quotas[r], std::min(most, sums[r].size()));
        const auto ideal = static_cast<size_t>(std::count_if(
            sums[r].begin(), sums[r].end(), [&](float sum) { return std::fabs(sum) >= threshold; }));
        EXPECT_LE(quotas[r], ideal + 2 * block);
        EXPECT_GE(quotas[r] + 2 * block, ideal);
      }
    }
  }
}

TEST(SparseSplit, OffersLeaveZerosOutAndTakeAllThereIs) {
  std::vector<uint32_t> counts;
  const Offer none = MakeOffer(2, std::vector<float>{0.0f, -0.0f}, 5, 8, 2, &counts);
  EXPECT_EQ(none, (Offer{.received = 2, .distinct = 2, .offered = 0, .magnitude = {}}));
  const Offer empty = MakeOffer(0, {}, 5, 8, 2, &counts);
  EXPECT_EQ(empty, Offer());
  const Offer one = MakeOffer(3, std::vector<float>{0.0f, -1.0f}, 5, 8, 2, &counts);
  EXPECT_EQ(one, (Offer{.received = 3, .distinct = 2, .offered = 1, .magnitude = {0x3f80}}));
  EXPECT_THAT(Quotas(std::vector<Offer>{none, one}, 8), ::testing::ElementsAre(0, 1));
  // Equal magnitudes: the lower positions' owner.
  EXPECT_THAT(Quotas(std::vector<Offer>{one, one, one}, 1), ::testing::ElementsAre(1, 1, 0));
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

  constexpr int kRanks = 4;
  constexpr size_t kK = 64;  // blocks of 2
  std::vector<uint32_t> counts;
  const Offer offer = MakeOffer(9, DrawSums(1, 7, 0, 1)[0], 5, kK, kRanks, &counts);
  ASSERT_EQ(offer.magnitude.size(), 3u);
  std::vector<std::byte> put(OfferBytes(offer));
  ASSERT_LE(put.size(), MaxOfferBytes(kK, kRanks));
  PutOffer(offer, absl::MakeSpan(put));
  EXPECT_EQ(*GetOffer(put, kK, kRanks, 100), offer);
  const auto refused = [&](size_t at, uint8_t value, size_t elements = 100) {
    std::vector<std::byte> hostile = put;
    hostile[at] = std::byte{value};
    return GetOffer(hostile, kK, kRanks, elements).status().code() == absl::StatusCode::kDataLoss;
  };
  EXPECT_TRUE(refused(0, 3)) << "less received than distinct";
  EXPECT_TRUE(refused(1, 2)) << "more received than was selected";
  EXPECT_TRUE(refused(4, 7, 6)) << "more positions than elements";
  EXPECT_TRUE(refused(8, 8)) << "more offered than there are";
  EXPECT_TRUE(refused(8, 3)) << "magnitudes too many";
  EXPECT_TRUE(refused(8, 7)) << "magnitudes too few";
  EXPECT_TRUE(refused(13, 0)) << "blocks that do not descend";
  EXPECT_FALSE(GetOffer(wire::Bytes(put).first(11), kK, kRanks, 100).ok());
  EXPECT_FALSE(GetOffer({}, kK, kRanks, 100).ok());
}

}  // namespace
}  // namespace terse::engine
