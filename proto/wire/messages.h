// SPDX-License-Identifier: Apache-2.0
//
// How large what travels together is: part of the wire format (docs/wire_format.md, "Messages"), because
// ranks cut their tensors without asking each other. Bytes.
#ifndef TERSE_PROTO_WIRE_MESSAGES_H_
#define TERSE_PROTO_WIRE_MESSAGES_H_

#include <cstddef>

namespace terse::wire {

// Scatter-reduce: a shard is exchanged in pieces whose payloads are about so large: small enough that
// encoding one takes a fraction of a millisecond, large enough that a message's own cost does not count.
inline constexpr size_t kPieceBytes = size_t{60} << 10;

// Messages are no larger, but for what is not parted: from 64 KiB on MPI over TCP asks the receiver first.
inline constexpr size_t kMostMessageBytes = size_t{62} << 10;

// All-gather: of a large tensor one stretch for so many bytes of payload. Each is a message more, so there
// are not many.
inline constexpr size_t kStretchBytes = size_t{24} << 10;
inline constexpr size_t kMostStretches = 32;

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_MESSAGES_H_
