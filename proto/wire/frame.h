// SPDX-License-Identifier: Apache-2.0
//
// The frame: the header in front of every payload that a schedule of ours sends, and the checks a
// receiver makes before anything behind it is decoded. Layout byte by byte: docs/wire_format.md.
#ifndef TERSE_PROTO_WIRE_FRAME_H_
#define TERSE_PROTO_WIRE_FRAME_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/wire/bytes.h"
#include "proto/wire/types.h"

namespace terse::wire {

inline constexpr size_t kFrameHeaderBytes = 56;
inline constexpr uint16_t kFrameMagic = 0x5254;  // "TR"
inline constexpr uint8_t kFrameVersion = 1;

// Flags of a frame. A frame with others is refused: its sender speaks a later version.
inline constexpr uint16_t kFrameNonfinite = 1;            // some rank's gradient held a NaN or an Inf
inline constexpr uint16_t kFrameFlags = kFrameNonfinite;  // all of them

struct FrameHeader {
  Codec codec = Codec::kNone;
  Exchange exchange = Exchange::kAllGather;
  uint16_t flags = 0;
  uint32_t plan_version = 0;
  uint32_t tensor = 0;
  uint64_t step = 0;
  uint64_t begin = 0;          // first element of the range that the payload encodes
  uint64_t count = 0;          // elements in it
  uint64_t payload_bytes = 0;  // bytes behind the header

  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

// Writes header and checksum in front of a payload that already lies at frame[kFrameHeaderBytes...].
// frame.size() must be kFrameHeaderBytes + header.payload_bytes.
void SealFrame(const FrameHeader& header, MutableBytes frame);

// Takes the first frame of `bytes`: checks magic, version, lengths and checksum, and moves `bytes`
// behind it. The payload points into the input.
//   DATA_LOSS  shorter than its header says, a checksum that does not fit, a foreign magic or version,
//              a number that names no codec, exchange or flag, or a range that overflows; `bytes` stays
struct ParsedFrame {
  FrameHeader header;
  Bytes payload;
};
absl::StatusOr<ParsedFrame> TakeFrame(Bytes& bytes);

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_FRAME_H_
