// SPDX-License-Identifier: Apache-2.0
#include "compressors/select.h"

#include <vector>

#include "gtest/gtest.h"

namespace terse {
namespace {

TEST(SelectLargest, FindsTheThresholdAndItsTies) {
  std::vector<uint32_t> histogram(kHistogramBins);
  const std::vector<float> values = {3, -1, 2, -2, 0, 2, 0.5f};
  const auto select = [&](size_t k) { return SelectLargest(values, k, absl::MakeSpan(histogram)); };
  EXPECT_EQ(select(1).magnitude, 0x40400000u);
  EXPECT_EQ(select(1).ties, 1u);
  EXPECT_EQ(select(3).magnitude, 0x40000000u);
  EXPECT_EQ(select(3).ties, 2u);
  EXPECT_EQ(select(5).magnitude, 0x3f800000u);
  EXPECT_EQ(select(7).count, 6u);  // zero does not belong
  EXPECT_EQ(select(7).ties, 0u);
}

}  // namespace
}  // namespace terse
