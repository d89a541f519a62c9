// SPDX-License-Identifier: Apache-2.0
//
// What a receiver takes for frames: as it came, and with magic, version and checksum made right, without
// which almost nothing would get past them.
#include "proto/wire/frame.h"

#include <cstring>
#include <vector>

#include "proto/wire/checksum.h"
#include "tests/fuzz/fuzz.h"

namespace terse::fuzz {
namespace {

void TakeAll(wire::Bytes bytes) {
  while (!bytes.empty()) {
    const wire::Bytes before = bytes;
    const absl::StatusOr<wire::ParsedFrame> frame = wire::TakeFrame(bytes);
    if (!frame.ok()) {
      Require(frame.status().code() == absl::StatusCode::kDataLoss, "a bad frame is DATA_LOSS");
      Require(bytes.data() == before.data() && bytes.size() == before.size(),
              "a refused frame stays where it is");
      return;
    }
    const size_t taken = before.size() - bytes.size();
    Require(taken == wire::kFrameHeaderBytes + frame->payload.size() &&
                frame->payload.size() == frame->header.payload_bytes,
            "a frame is its header and its payload");
    const wire::FrameHeader& header = frame->header;
    Require((header.flags & ~wire::kFrameFlags) == 0, "a frame has no unknown flag");
    Require(IsNamed(header.codec) && IsNamed(header.exchange), "a frame names codec and exchange");
    Require(header.begin + header.count >= header.begin, "a frame's range does not overflow");
    std::vector<std::byte> again(before.begin(), before.begin() + taken);
    std::memset(again.data(), 0, wire::kFrameHeaderBytes);
    wire::SealFrame(frame->header, absl::MakeSpan(again));
    Require(wire::Bytes(again) == before.first(taken), "a frame that was taken seals to the same bytes");
  }
}

// Offsets of docs/wire_format.md.
std::vector<std::byte> Repaired(wire::Bytes bytes) {
  std::vector<std::byte> frame(bytes.begin(), bytes.end());
  if (frame.size() < wire::kFrameHeaderBytes) return frame;
  const size_t payload = frame.size() - wire::kFrameHeaderBytes;
  wire::Store(frame.data(), wire::kFrameMagic);
  wire::Store(frame.data() + 2, wire::kFrameVersion);
  wire::Store(frame.data() + 40, uint64_t{payload});
  const wire::Bytes view = frame;
  wire::Store<uint32_t>(frame.data() + 52, wire::Crc32c(view.subspan(56), wire::Crc32c(view.first(52))));
  return frame;
}

}  // namespace
}  // namespace terse::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const terse::wire::Bytes bytes = terse::fuzz::AsBytes(data, size);
  terse::fuzz::TakeAll(bytes);
  terse::fuzz::TakeAll(terse::fuzz::Repaired(bytes));
  return 0;
}
