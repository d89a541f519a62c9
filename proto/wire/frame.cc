// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/frame.h"

#include <cassert>
#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/wire/checksum.h"

namespace terse::wire {
namespace {

// Where each field of the header begins (docs/wire_format.md).
enum Offset : size_t {
  kMagicAt = 0,
  kVersionAt = 2,
  kCodecAt = 3,
  kExchangeAt = 4,
  kReservedByteAt = 5,
  kFlagsAt = 6,
  kPlanVersionAt = 8,
  kTensorAt = 12,
  kStepAt = 16,
  kBeginAt = 24,
  kCountAt = 32,
  kPayloadBytesAt = 40,
  kReservedWordAt = 48,
  kChecksumAt = 52,
};
static_assert(kChecksumAt + sizeof(uint32_t) == kFrameHeaderBytes);

constexpr uint8_t kLastCodec = static_cast<uint8_t>(Codec::kPowerSgd);
constexpr uint8_t kLastExchange = static_cast<uint8_t>(Exchange::kLowRank);

// Of all bytes before the checksum, then of all behind it.
uint32_t FrameChecksum(Bytes frame) {
  return Crc32c(frame.subspan(kFrameHeaderBytes), Crc32c(frame.first(kChecksumAt)));
}

template <typename... Words>
absl::Status Bad(const Words&... words) {
  return absl::DataLossError(absl::StrCat("frame refused: ", words...));
}

}  // namespace

void SealFrame(const FrameHeader& header, MutableBytes frame) {
  assert(frame.size() == kFrameHeaderBytes + header.payload_bytes);
  std::byte* const to = frame.data();
  Store<uint16_t>(to + kMagicAt, kFrameMagic);
  Store<uint8_t>(to + kVersionAt, kFrameVersion);
  Store<uint8_t>(to + kCodecAt, static_cast<uint8_t>(header.codec));
  Store<uint8_t>(to + kExchangeAt, static_cast<uint8_t>(header.exchange));
  Store<uint8_t>(to + kReservedByteAt, 0);
  Store<uint16_t>(to + kFlagsAt, header.flags);
  Store<uint32_t>(to + kPlanVersionAt, header.plan_version);
  Store<uint32_t>(to + kTensorAt, header.tensor);
  Store<uint64_t>(to + kStepAt, header.step);
  Store<uint64_t>(to + kBeginAt, header.begin);
  Store<uint64_t>(to + kCountAt, header.count);
  Store<uint64_t>(to + kPayloadBytesAt, header.payload_bytes);
  Store<uint32_t>(to + kReservedWordAt, 0);
  Store<uint32_t>(to + kChecksumAt, FrameChecksum(frame));
}

absl::StatusOr<ParsedFrame> TakeFrame(Bytes& bytes) {
  if (bytes.size() < kFrameHeaderBytes) {
    return Bad("a header has ", kFrameHeaderBytes, " bytes, only ", bytes.size(), " came");
  }
  const std::byte* const from = bytes.data();
  const auto magic = Load<uint16_t>(from + kMagicAt);
  if (magic != kFrameMagic) {
    return Bad("it begins with 0x", absl::Hex(magic, absl::kZeroPad4), " instead of 0x",
               absl::Hex(kFrameMagic, absl::kZeroPad4));
  }
  const auto version = Load<uint8_t>(from + kVersionAt);
  if (version != kFrameVersion) {
    return Bad("it has version ", version, ", this build reads version ", kFrameVersion,
               "; all ranks must run the same build");
  }
  const auto payload_bytes = Load<uint64_t>(from + kPayloadBytesAt);
  const uint64_t behind = bytes.size() - kFrameHeaderBytes;
  if (payload_bytes > behind) {
    return Bad("its header says ", payload_bytes, " payload bytes, only ", behind, " came");
  }
  const Bytes frame = bytes.first(kFrameHeaderBytes + payload_bytes);
  const auto stated = Load<uint32_t>(from + kChecksumAt);
  const uint32_t computed = FrameChecksum(frame);
  if (stated != computed) {
    return Bad("its checksum is 0x", absl::Hex(computed, absl::kZeroPad8), ", the header says 0x",
               absl::Hex(stated, absl::kZeroPad8), "; bytes were changed on the way");
  }

  // The bytes are those that were sent; what follows guards against a sender that means something else.
  const auto codec = Load<uint8_t>(from + kCodecAt);
  if (codec > kLastCodec) return Bad("codec ", codec, " is not known to this build");
  const auto exchange = Load<uint8_t>(from + kExchangeAt);
  if (exchange > kLastExchange) return Bad("exchange ", exchange, " is not known to this build");
  ParsedFrame parsed;
  FrameHeader& header = parsed.header;
  header.codec = static_cast<Codec>(codec);
  header.exchange = static_cast<Exchange>(exchange);
  header.flags = Load<uint16_t>(from + kFlagsAt);
  header.plan_version = Load<uint32_t>(from + kPlanVersionAt);
  header.tensor = Load<uint32_t>(from + kTensorAt);
  header.step = Load<uint64_t>(from + kStepAt);
  header.begin = Load<uint64_t>(from + kBeginAt);
  header.count = Load<uint64_t>(from + kCountAt);
  header.payload_bytes = payload_bytes;
  if ((header.flags & ~kFrameFlags) != 0 || Load<uint8_t>(from + kReservedByteAt) != 0 ||
      Load<uint32_t>(from + kReservedWordAt) != 0) {
    return Bad("it uses flags or reserved bytes that this build does not know");
  }
  if (header.count > std::numeric_limits<uint64_t>::max() - header.begin) {
    return Bad("its range of ", header.count, " elements from ", header.begin, " overflows");
  }
  parsed.payload = frame.subspan(kFrameHeaderBytes);
  bytes.remove_prefix(frame.size());
  return parsed;
}

}  // namespace terse::wire
