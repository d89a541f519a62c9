// SPDX-License-Identifier: Apache-2.0
#include "compressors/rice.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace terse {
namespace {

std::vector<uint32_t> Decode(const std::vector<std::byte>& bytes, const RicePlan& plan, size_t count) {
  RiceReader reader(bytes, plan.parameter);
  std::vector<uint32_t> positions;
  uint64_t next = 0;
  for (size_t i = 0; i < count; ++i) {
    uint64_t gap = 0;
    EXPECT_TRUE(reader.Next(&gap));
    positions.push_back(static_cast<uint32_t>(next + gap));
    next = positions.back() + uint64_t{1};
  }
  EXPECT_TRUE(reader.AtEnd());
  return positions;
}

TEST(Rice, RoundTripsWithinItsBound) {
  std::mt19937 generator(3);
  std::vector<std::pair<size_t, std::vector<uint32_t>>> lists = {
      {1, {0}},
      {100, {}},
      {100, {99}},
      {4, {0, 1, 2, 3}},
      {1'000'000, {0, 999'999}},
      {3'000'000'000u, {0, 65'536, 131'073, 2'999'999'999u}},  // run gaps of more than 16 bits
      {0xffffffffu, {0xfffffffeu}},
  };
  for (int i = 0; i < 300; ++i) {
    const size_t n = 1 + generator() % 5000;
    const double density = std::pow(10.0, -3.0 * (generator() % 1000) / 1000.0);
    lists.push_back({n, {}});
    for (uint32_t j = 0; j < n; ++j) {
      // All at the end, or spread.
      const bool in = i % 3 == 0 ? j >= n - n * density : generator() % 100'000 < density * 100'000;
      if (in) lists.back().second.push_back(j);
    }
  }
  for (const auto& [n, positions] : lists) {
    const RicePlan plan = PlanRice(n, positions);
    EXPECT_LE(plan.bytes, RiceMaxBytes(n, positions.size()));
    std::vector<std::byte> bytes(plan.bytes + 8, std::byte{0xa5});
    EncodeRice(plan, positions, bytes.data());
    EXPECT_TRUE(std::all_of(bytes.end() - 8, bytes.end(), [](std::byte b) { return b == std::byte{0xa5}; }));
    bytes.resize(plan.bytes);
    EXPECT_EQ(Decode(bytes, plan, positions.size()), positions);
  }
}

TEST(Rice, BoundGrowsWithTheCount) {
  for (const size_t n : {1, 10, 1000, 70'000}) {
    size_t last = 0;
    for (size_t count = 0; count <= n; count += std::max<size_t>(1, n / 500)) {
      EXPECT_GE(RiceMaxBytes(n, count), last);
      last = RiceMaxBytes(n, count);
    }
  }
}

TEST(Rice, FailsAtTheEndOfTheBytes) {
  const std::vector<std::byte> zeros(64);
  uint64_t gap = 0;
  EXPECT_FALSE(RiceReader(zeros, 3).Next(&gap));
  EXPECT_FALSE(RiceReader({}, 0).Next(&gap));
  std::vector<std::byte> cut(4);
  cut[3] = std::byte{0x80};  // the one, but none of the low bits
  EXPECT_FALSE(RiceReader(cut, 3).Next(&gap));
  EXPECT_TRUE(RiceReader(cut, 0).Next(&gap));
  EXPECT_EQ(gap, 31u);
}

}  // namespace
}  // namespace terse
