// SPDX-License-Identifier: Apache-2.0
//
// The order of the training data: what makes runs with one seed comparable.
#include "examples/02_fashion_mnist/dataset.h"

#include <gmock/gmock.h>

#include <set>
#include <stdexcept>
#include <vector>

namespace terse::examples {
namespace {

constexpr int64_t kImages = 103;
constexpr int64_t kBatch = 4;
constexpr int kRanks = 3;  // 8 steps of 12 an epoch, 7 images left out

std::vector<int64_t> GlobalBatch(std::vector<EpochSampler>* ranks, int64_t step) {
  std::vector<int64_t> all;
  for (EpochSampler& rank : *ranks) {
    for (const int64_t image : rank.Batch(step)) all.push_back(image);
  }
  return all;
}

std::vector<EpochSampler> MakeRanks(uint64_t seed) {
  std::vector<EpochSampler> ranks;
  for (int rank = 0; rank < kRanks; ++rank) ranks.emplace_back(kImages, kBatch, rank, kRanks, seed);
  return ranks;
}

TEST(EpochSampler, UsesNoImageTwiceInAnEpoch) {
  std::vector<EpochSampler> ranks = MakeRanks(1);
  ASSERT_EQ(ranks[0].steps_per_epoch(), 8);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<int64_t> seen;
    for (int64_t step = 0; step < 8; ++step) {
      for (const int64_t image : GlobalBatch(&ranks, epoch * 8 + step)) {
        EXPECT_TRUE(image >= 0 && image < kImages) << image;
        EXPECT_TRUE(seen.insert(image).second) << image << " is used twice";
      }
    }
    EXPECT_EQ(seen.size(), 96u);
  }
}

TEST(EpochSampler, OneRankSeesTheSameGlobalBatchesAsThree) {
  std::vector<EpochSampler> ranks = MakeRanks(5);
  EpochSampler alone(kImages, kBatch * kRanks, 0, 1, 5);
  for (int64_t step = 0; step < 20; ++step) EXPECT_EQ(GlobalBatch(&ranks, step), alone.Batch(step));
}

TEST(EpochSampler, OrderFollowsSeedAndEpoch) {
  EpochSampler one(kImages, kBatch, 0, 1, 1);
  EpochSampler again(kImages, kBatch, 0, 1, 1);
  EpochSampler two(kImages, kBatch, 0, 1, 2);
  const std::vector<int64_t> first = one.Batch(0);
  EXPECT_EQ(first, again.Batch(0));
  EXPECT_NE(first, two.Batch(0));
  EXPECT_NE(first, one.Batch(one.steps_per_epoch()));
}

TEST(EpochSampler, RefusesABatchLargerThanTheData) {
  EXPECT_THROW(EpochSampler(kImages, kImages, 0, 2, 1), std::invalid_argument);
}

TEST(ImageSet, NormalizesToMeanZeroAndDeviationOne) {
  ImageSet set;
  set.labels = {0, 1};
  set.pixels.assign(2 * kImagePixels, 0);
  set.pixels[kImagePixels] = 255;
  std::vector<float> image(kImagePixels);
  set.CopyNormalized(1, image.data());
  EXPECT_NEAR(image[0], (1 - 0.2860) / 0.3530, 1e-5);
  EXPECT_NEAR(image[1], -0.2860 / 0.3530, 1e-5);
}

}  // namespace
}  // namespace terse::examples
