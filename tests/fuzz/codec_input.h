// SPDX-License-Identifier: Apache-2.0
//
// How the inputs of the codecs' targets begin. 12 bytes, little-endian:
//   u8 codec   the number of types.h       u8 bits
//   u16 block  in units of 8 elements      u16 rank
//   u16 density  (x + 1) / 65,536          u8 value format + 3 span, modulo 9
//   u8 choices  bit 0 index coding, 1 selection, 2 rounding, 3 scale, 4 error of powersgd,
//               5 to 7 repetitions (encode): x = 7 until the tensor is long (topk alone), else 4^(x modulo 4)
//   u16 extent  decode: elements; encode: elements from one shard to the next
// Sums and matrices of a few thousand elements reach every branch and stay fast.
#ifndef TERSE_TESTS_FUZZ_CODEC_INPUT_H_
#define TERSE_TESTS_FUZZ_CODEC_INPUT_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "compressors/registry.h"
#include "proto/wire/bytes.h"
#include "tests/compressors/codec_cases.h"

namespace terse::fuzz {

inline constexpr size_t kMostElements = 4096;

struct CodecInput {
  terse::testing::CodecCase test_case;
  uint32_t repetitions = 0;  // x of the choices
  size_t extent = 0;         // at most kMostElements
  wire::Bytes rest;
};

// Nothing when the bytes name no codec, or parameters that it refuses.
inline std::optional<CodecInput> TakeCodec(wire::Bytes bytes) {
  wire::Reader reader(bytes);
  CodecInput input;
  wire::CodecParams& params = input.test_case.params;
  input.test_case.codec = FindCompressor(static_cast<wire::Codec>(reader.Get<uint8_t>()));
  params.bits = reader.Get<uint8_t>();
  params.block = reader.Get<uint16_t>() * 8u;
  params.rank = reader.Get<uint16_t>();
  params.density = (reader.Get<uint16_t>() + 1) / 65536.0;
  const auto format = reader.Get<uint8_t>();
  params.values = static_cast<wire::ValueFormat>(format % 3);
  params.span = static_cast<wire::QuantizeSpan>(format / 3 % 3);
  const auto choices = reader.Get<uint8_t>();
  params.index = static_cast<wire::IndexCoding>(choices & 1);
  params.selection = static_cast<wire::SelectionRule>(choices >> 1 & 1);
  params.rounding = static_cast<wire::Rounding>(choices >> 2 & 1);
  params.scale = static_cast<wire::ScaleNorm>(choices >> 3 & 1);
  params.error = static_cast<wire::LowRankError>(choices >> 4 & 1);
  input.repetitions = choices >> 5;
  input.extent = reader.Get<uint16_t>() % (kMostElements + 1);
  input.rest = reader.GetBytes(reader.remaining());
  const Compressor* const codec = input.test_case.codec;
  if (!reader.ok() || codec == nullptr || !codec->CheckParams(params).ok()) return std::nullopt;
  return input;
}

}  // namespace terse::fuzz

#endif  // TERSE_TESTS_FUZZ_CODEC_INPUT_H_
