// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/frame.h"

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/wire/checksum.h"

namespace terse::wire {
namespace {

using testing::HasSubstr;

FrameHeader SampleHeader(uint64_t payload_bytes) {
  FrameHeader header;
  header.codec = Codec::kQuantize;
  header.exchange = Exchange::kScatterReduceAllGather;
  header.flags = kFrameNonfinite;
  header.plan_version = 0x01020304;
  header.tensor = 0x11121314;
  header.step = 0x2122232425262728;
  header.begin = 0x3132333435363738;
  header.count = 0x4142434445464748;
  header.payload_bytes = payload_bytes;
  return header;
}

std::vector<std::byte> Seal(const FrameHeader& header) {
  std::vector<std::byte> frame(kFrameHeaderBytes + header.payload_bytes);
  for (size_t i = 0; i < header.payload_bytes; ++i)
    frame[kFrameHeaderBytes + i] = static_cast<std::byte>(i * 7);
  SealFrame(header, absl::MakeSpan(frame));
  return frame;
}

// Makes the checksum fit again after a field was changed on purpose.
void Reseal(std::vector<std::byte>& frame) {
  const Bytes bytes = frame;
  Store<uint32_t>(frame.data() + 52, Crc32c(bytes.subspan(56), Crc32c(bytes.first(52))));
}

// What TakeFrame says about a frame that it must refuse, leaving its input where it was.
std::string Refusal(const std::vector<std::byte>& frame) {
  Bytes bytes = frame;
  const auto parsed = TakeFrame(bytes);
  EXPECT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << parsed.status();
  EXPECT_EQ(bytes.data(), frame.data());
  EXPECT_EQ(bytes.size(), frame.size());
  return std::string(parsed.status().message());
}

// The bytes of docs/wire_format.md.
TEST(Frame, GoldenBytes) {
  const std::vector<std::byte> frame = Seal(SampleHeader(3));
  const uint8_t golden[] = {
      0x54, 0x52, 0x01, 0x05, 0x03, 0x00, 0x01, 0x00,  // magic, version, codec, exchange, 0, flags
      0x04, 0x03, 0x02, 0x01, 0x14, 0x13, 0x12, 0x11,  // plan version, tensor
      0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,  // step
      0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,  // begin
      0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41,  // count
      0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // payload bytes
      0x00, 0x00, 0x00, 0x00, 0x10, 0xff, 0xae, 0x4c,  // 0, checksum
      0x00, 0x07, 0x0e,                                // payload
  };
  ASSERT_EQ(frame.size(), sizeof(golden));
  for (size_t i = 0; i < frame.size(); ++i) EXPECT_EQ(std::to_integer<int>(frame[i]), golden[i]) << i;
}

TEST(Frame, RoundTrip) {
  for (const uint64_t payload_bytes : {0, 1, 7, 8, 1000}) {
    const FrameHeader header = SampleHeader(payload_bytes);
    const std::vector<std::byte> frame = Seal(header);
    Bytes bytes = frame;
    const auto parsed = TakeFrame(bytes);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->header, header);
    EXPECT_EQ(parsed->payload.data(), frame.data() + kFrameHeaderBytes);
    EXPECT_EQ(parsed->payload.size(), payload_bytes);
    EXPECT_TRUE(bytes.empty());
  }
}

TEST(Frame, TakesOneAfterTheOther) {
  std::vector<std::byte> stream = Seal(SampleHeader(5));
  const std::vector<std::byte> second = Seal(SampleHeader(0));
  stream.insert(stream.end(), second.begin(), second.end());
  Bytes bytes = stream;
  const auto first = TakeFrame(bytes);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->payload.size(), 5u);
  ASSERT_EQ(bytes.size(), second.size());
  const auto next = TakeFrame(bytes);
  ASSERT_TRUE(next.ok());
  EXPECT_TRUE(next->payload.empty());
  EXPECT_TRUE(bytes.empty());
}

TEST(Frame, RefusesEveryTruncation) {
  const std::vector<std::byte> frame = Seal(SampleHeader(20));
  for (size_t length = 0; length < frame.size(); ++length) {
    // A copy of its own size, so that the address sanitizer sees a read behind it.
    const std::vector<std::byte> part(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(length));
    EXPECT_THAT(Refusal(part), HasSubstr("came")) << length;
  }
}

TEST(Frame, RefusesEveryFlippedBit) {
  std::vector<std::byte> frame = Seal(SampleHeader(20));
  for (size_t bit = 0; bit < 8 * frame.size(); ++bit) {
    frame[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    Refusal(frame);
    frame[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
}

TEST(Frame, RefusesLengthsThatOverflow) {
  for (const uint64_t length : {uint64_t{21}, uint64_t{1} << 32, std::numeric_limits<uint64_t>::max(),
                                std::numeric_limits<uint64_t>::max() - kFrameHeaderBytes + 1}) {
    std::vector<std::byte> frame = Seal(SampleHeader(20));
    Store<uint64_t>(frame.data() + 40, length);
    Reseal(frame);
    EXPECT_THAT(Refusal(frame), HasSubstr("payload bytes, only 20 came"));
  }
}

TEST(Frame, RefusesWhatThisVersionDoesNotKnow) {
  struct Case {
    size_t offset;
    uint8_t value;
    const char* words;
  };
  for (const Case& c : {Case{0, 0x55, "begins with 0x5255"}, Case{2, 2, "version 2"}, Case{3, 7, "codec 7"},
                        Case{3, 255, "codec 255"}, Case{4, 6, "exchange 6"}, Case{5, 1, "reserved"},
                        Case{6, 2, "flags"}, Case{7, 0x80, "flags"}, Case{48, 1, "reserved"}}) {
    std::vector<std::byte> frame = Seal(SampleHeader(4));
    Store<uint8_t>(frame.data() + c.offset, c.value);
    Reseal(frame);
    EXPECT_THAT(Refusal(frame), HasSubstr(c.words));
  }
}

TEST(Frame, RefusesRangesThatOverflow) {
  FrameHeader header = SampleHeader(0);
  header.begin = std::numeric_limits<uint64_t>::max() - 4;
  header.count = 5;
  EXPECT_THAT(Refusal(Seal(header)), HasSubstr("overflows"));
  header.count = 4;
  const std::vector<std::byte> frame = Seal(header);
  Bytes bytes = frame;
  EXPECT_TRUE(TakeFrame(bytes).ok());
}

// Whatever the bytes, the answer is a refusal or a frame that lies within them.
TEST(Frame, SurvivesRandomMutations) {
  std::mt19937 random(20);
  size_t accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    std::vector<std::byte> frame = Seal(SampleHeader(random() % 40));
    for (uint32_t edits = random() % 4; edits > 0; --edits) {
      frame[random() % frame.size()] = static_cast<std::byte>(random());
    }
    if (random() % 4 == 0) frame.resize(random() % (frame.size() + 8));
    if (random() % 2 == 0 && frame.size() >= kFrameHeaderBytes) Reseal(frame);
    Bytes bytes = frame;
    const auto parsed = TakeFrame(bytes);
    if (!parsed.ok()) {
      ASSERT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss);
      ASSERT_EQ(bytes.size(), frame.size());
      continue;
    }
    ++accepted;
    ASSERT_EQ(kFrameHeaderBytes + parsed->payload.size() + bytes.size(), frame.size());
    ASSERT_EQ(parsed->header.payload_bytes, parsed->payload.size());
    // Sealing what was read gives the bytes that were read: nothing in a frame is ignored.
    std::vector<std::byte> again(frame.begin(), frame.end() - static_cast<ptrdiff_t>(bytes.size()));
    SealFrame(parsed->header, absl::MakeSpan(again));
    ASSERT_TRUE(std::equal(again.begin(), again.end(), frame.begin()));
  }
  EXPECT_GT(accepted, 1000u);
}

}  // namespace
}  // namespace terse::wire
