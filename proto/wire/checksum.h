// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_PROTO_WIRE_CHECKSUM_H_
#define TERSE_PROTO_WIRE_CHECKSUM_H_

#include <cstdint>

#include "proto/wire/bytes.h"

namespace terse::wire {

// CRC-32C (Castagnoli, reflected, initial value and final xor 0xffffffff: RFC 3720, appendix B.4).
// `crc` continues an earlier result, so Crc32c(b, Crc32c(a)) is the checksum of a followed by b.
// Uses the processor's instruction where there is one.
uint32_t Crc32c(Bytes bytes, uint32_t crc = 0);

// FNV-1a, 64 bit: for comparing configurations and tables between ranks, not against an adversary.
uint64_t Fnv1a(Bytes bytes, uint64_t hash = 0xcbf29ce484222325u);

// For tests, which hold both ways of computing Crc32c against the same vectors.
namespace checksum_internal {
uint32_t Crc32cPortable(Bytes bytes, uint32_t crc = 0);
bool HasCrc32cInstruction();  // what Crc32c uses on this machine
}  // namespace checksum_internal

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_CHECKSUM_H_
