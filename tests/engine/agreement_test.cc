// SPDX-License-Identifier: Apache-2.0
//
// Announcements as bytes. What agreement does with them: engine_test.cc and tests/api/mismatch_test.cc.
#include "runtime/engine/agreement.h"

#include <limits>

#include "gtest/gtest.h"

namespace terse::engine {
namespace {

constexpr size_t kFixedBytes = 48;
constexpr size_t kIntentAt = 4;
constexpr size_t kFlagsAt = 44;

std::vector<std::byte> Sample() {
  Announcement mine;
  mine.intent = Intent::kSettle;
  mine.step = 7;
  mine.ordinal = 9;
  mine.tensor_count = 20;
  mine.table_hash = 0x0123456789abcdef;
  mine.testing = true;
  mine.submitted = {std::byte{0xff}, std::byte{0x0f}, std::byte{0}};
  return EncodeAnnouncement(mine);
}

std::vector<std::byte> WithTimes(const std::vector<float>& times) {
  Announcement mine;
  mine.intent = Intent::kStep;
  mine.times = times;
  mine.submitted = {std::byte{0x01}};
  return EncodeAnnouncement(mine);
}

void ExpectRefused(const std::vector<std::byte>& bytes) {
  EXPECT_EQ(ParseAnnouncement(bytes).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Announcement, RoundTrip) {
  const std::vector<std::byte> bytes = Sample();
  ASSERT_EQ(bytes.size(), kFixedBytes + 3);
  const absl::StatusOr<Announcement> parsed = ParseAnnouncement(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->intent, Intent::kSettle);
  EXPECT_EQ(parsed->tensor_count, 20u);
  EXPECT_TRUE(parsed->testing);
  EXPECT_FALSE(parsed->freeze);
  EXPECT_EQ(EncodeAnnouncement(*parsed), bytes);
}

TEST(Announcement, RefusesWrongLengths) {
  std::vector<std::byte> bytes = Sample();
  bytes.resize(kFixedBytes);
  EXPECT_TRUE(ParseAnnouncement(bytes).ok());
  bytes.resize(kFixedBytes - 1);
  ExpectRefused(bytes);
  ExpectRefused({});
  bytes = Sample();
  bytes.resize(kFixedBytes + 8192);
  EXPECT_TRUE(ParseAnnouncement(bytes).ok());
  bytes.resize(bytes.size() + 1);
  ExpectRefused(bytes);
}

TEST(Announcement, Times) {
  const std::vector<float> times = {0.0f, 1.5f, Announcement::kNoTime, 3e30f};
  const std::vector<std::byte> bytes = WithTimes(times);
  ASSERT_EQ(bytes.size(), kFixedBytes + 4 + 4 * 4 + 1);
  const absl::StatusOr<Announcement> parsed = ParseAnnouncement(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->times, times);
  EXPECT_EQ(parsed->submitted.size(), 1u);
  EXPECT_EQ(EncodeAnnouncement(*parsed), bytes);
  EXPECT_TRUE(ParseAnnouncement(WithTimes(std::vector<float>(Announcement::kMostTimes))).ok());
}

TEST(Announcement, RefusesTimesThatAreNone) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float ms : {-0.5f, -2.0f, kNan, std::numeric_limits<float>::infinity()}) {
    ExpectRefused(WithTimes({1.0f, ms}));
  }
  ExpectRefused(WithTimes(std::vector<float>(Announcement::kMostTimes + 1)));
  // More than there are bytes for; none, though a flag says that there are.
  for (const uint32_t count : {5u, 0u, 0xffffffffu}) {
    std::vector<std::byte> bytes = WithTimes({1.0f, 2.0f, 3.0f});
    wire::Store(bytes.data() + kFixedBytes, count);
    ExpectRefused(bytes);
  }
}

TEST(Announcement, RefusesForeignMagicIntentAndFlags) {
  for (const auto& [at, value] : {std::pair<size_t, uint32_t>{0, 0x41525255},
                                  {kIntentAt, 0},
                                  {kIntentAt, static_cast<uint32_t>(kLastIntent) + 1},
                                  {kFlagsAt, 4},
                                  {kFlagsAt, 8}}) {
    std::vector<std::byte> bytes = Sample();
    wire::Store(bytes.data() + at, value);
    ExpectRefused(bytes);
  }
}

}  // namespace
}  // namespace terse::engine
