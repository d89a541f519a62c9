// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/checksum.h"

#include <random>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace terse::wire {
namespace {

using Function = uint32_t (*)(Bytes, uint32_t);

Bytes AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::vector<std::byte> RandomBytes(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

// Both ways of computing it: Crc32c is the instruction's where the processor has one.
class Crc32cTest : public testing::TestWithParam<Function> {
 protected:
  static uint32_t Crc(Bytes bytes, uint32_t crc = 0) { return GetParam()(bytes, crc); }
};

INSTANTIATE_TEST_SUITE_P(Both, Crc32cTest, testing::Values(&Crc32c, &checksum_internal::Crc32cPortable),
                         [](const auto& which) { return which.index == 0 ? "Chosen" : "Portable"; });

TEST_P(Crc32cTest, VectorsOfRfc3720) {
  std::vector<std::byte> bytes(32, std::byte{0});
  EXPECT_EQ(Crc(bytes), 0x8a9136aau);
  bytes.assign(32, std::byte{0xff});
  EXPECT_EQ(Crc(bytes), 0x62a8ab43u);
  for (int i = 0; i < 32; ++i) bytes[i] = static_cast<std::byte>(i);
  EXPECT_EQ(Crc(bytes), 0x46dd794eu);
  for (int i = 0; i < 32; ++i) bytes[i] = static_cast<std::byte>(31 - i);
  EXPECT_EQ(Crc(bytes), 0x113fdb5cu);
  // An iSCSI SCSI Read (10) command PDU.
  const uint8_t pdu[48] = {0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                           0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
                           0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
                           0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
  EXPECT_EQ(Crc({reinterpret_cast<const std::byte*>(pdu), sizeof(pdu)}), 0xd9963a56u);
}

TEST_P(Crc32cTest, CheckValueAndEmpty) {
  EXPECT_EQ(Crc(AsBytes("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc({}), 0u);
  EXPECT_EQ(Crc({}, 0x12345678u), 0x12345678u);
}

TEST_P(Crc32cTest, ContinuesAtEverySplit) {
  const std::vector<std::byte> bytes = RandomBytes(100, 1);
  const uint32_t whole = Crc(bytes);
  for (size_t split = 0; split <= bytes.size(); ++split) {
    const Bytes all = bytes;
    EXPECT_EQ(Crc(all.subspan(split), Crc(all.first(split))), whole) << split;
  }
}

TEST_P(Crc32cTest, SeesEveryFlippedBit) {
  std::vector<std::byte> bytes = RandomBytes(64, 2);
  const uint32_t whole = Crc(bytes);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_NE(Crc(bytes), whole) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
}

// One bit at a time, as the definition says.
uint32_t BitByBit(Bytes bytes) {
  uint32_t crc = 0xffffffffu;
  for (const std::byte b : bytes) {
    crc ^= std::to_integer<uint32_t>(b);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
  }
  return ~crc;
}

// All lengths up to several times what a pass of either implementation takes, at every alignment.
TEST_P(Crc32cTest, AgreesWithTheDefinition) {
  const std::vector<std::byte> bytes = RandomBytes(40000, 3);
  const Bytes all = bytes;
  for (size_t length = 0; length < 200; ++length) {
    for (size_t offset = 0; offset < 8; ++offset) {
      const Bytes part = all.subspan(offset, length);
      ASSERT_EQ(Crc(part), BitByBit(part)) << length << " bytes at " << offset;
    }
  }
  for (size_t length = 1000; length < all.size() - 8; length += 1009) {
    const Bytes part = all.subspan(length % 8, length);
    ASSERT_EQ(Crc(part), BitByBit(part)) << length;
  }
}

TEST(Fnv1aTest, PublishedVectors) {
  EXPECT_EQ(Fnv1a({}), 0xcbf29ce484222325u);
  EXPECT_EQ(Fnv1a(AsBytes("a")), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(Fnv1a(AsBytes("foobar")), 0x85944171f73967e8u);
  EXPECT_EQ(Fnv1a(AsBytes("bar"), Fnv1a(AsBytes("foo"))), Fnv1a(AsBytes("foobar")));
}

}  // namespace
}  // namespace terse::wire
