// SPDX-License-Identifier: Apache-2.0
#include "compressors/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "compressors/decode_groups.h"
#include "compressors/encode_args.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"
#include "compressors/random_key.h"

namespace terse {
namespace {

constexpr size_t kHeaderBytes = 4;  // of one block: minimum and unit
constexpr size_t kMaxBlock = size_t{1} << 20;
constexpr float kSaturate = 0x1p126f;
constexpr float kLeastUnit = 0x1p-126f;  // its reciprocal is finite

size_t Blocks(const wire::CodecParams& params, size_t n) { return (n + params.block - 1) / params.block; }

struct BlockHeader {
  uint16_t minimum = 0;
  uint16_t unit = 0;
};

// The header that covers [low, high], both within +-kSaturate. In fp64, where the differences of floats
// do not overflow.
BlockHeader CoverRange(float low, float high, uint32_t levels) {
  BlockHeader header;
  header.minimum = kernels::ToBf16Down(low + 0.0f);  // -0 becomes 0: min(-0, 0) may be either
  const double width = double{high} - double{kernels::FromBf16(header.minimum)};
  if (width <= 0.0) return header;
  const float unit = std::max(static_cast<float>(width / levels), kLeastUnit);
  header.unit = kernels::ToBf16Up(unit);
  // The conversion to float may have rounded down to a bfloat16.
  if (double{kernels::FromBf16(header.unit)} * levels < width) ++header.unit;
  return header;
}

}  // namespace

absl::Status Quantize::CheckParams(const wire::CodecParams& params) const {
  if (params.bits < 1 || params.bits > 8) {
    return absl::InvalidArgumentError(absl::StrCat("quantize.bits is ", params.bits, "; it must be 1 to 8"));
  }
  if (params.block == 0 || params.block % kernels::kLanes != 0 || params.block > kMaxBlock) {
    return absl::InvalidArgumentError(absl::StrCat("quantize.block is ", params.block,
                                                   "; it must be a multiple of 16 from 16 to ", kMaxBlock));
  }
  return absl::OkStatus();
}

size_t Quantize::MaxPayloadBytes(const wire::CodecParams& params, size_t n) const {
  const size_t rows = (n + kernels::kLanes - 1) / kernels::kLanes;
  const size_t words = (rows * params.bits + 31) / 32;
  return Blocks(params, n) * kHeaderBytes + words * kernels::kLanes * sizeof(uint32_t);
}

absl::StatusOr<EncodeResult> Quantize::Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                              absl::Span<Shard> shards) const {
  if (absl::Status status = CheckEncodeArgs(*this, params, args, shards); !status.ok()) return status;
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  const uint32_t levels = (1u << params.bits) - 1;
  const uint64_t key = StreamKey(args.random);
  EncodeResult result;
  for (Shard& shard : shards) {
    const size_t n = shard.end - shard.begin;
    std::byte* headers = shard.out.data();
    kernels::LaneStream stream;
    stream.out = headers + Blocks(params, n) * kHeaderBytes;
    for (size_t at = 0; at < n; at += params.block) {
      const size_t size = std::min<size_t>(params.block, n - at);
      const size_t begin = shard.begin + at;
      const float* input = args.input.data() + begin;
      float* residual = ResidualAt(args, begin);

      const kernels::Range range = kernels.range(input, residual, size);
      result.nonfinite |= range.nonfinite;
      const float low = std::clamp(range.low, -kSaturate, kSaturate);
      const float high = std::clamp(range.high, -kSaturate, kSaturate);
      const BlockHeader header = CoverRange(low, high, levels);
      wire::Store(headers, header.minimum);
      wire::Store(headers + sizeof(header.minimum), header.unit);
      headers += kHeaderBytes;

      kernels::Quantizer quantizer;
      quantizer.minimum = kernels::FromBf16(header.minimum);
      quantizer.unit = kernels::FromBf16(header.unit);
      quantizer.inverse = header.unit == 0 ? 0.0f : 1.0f / quantizer.unit;
      quantizer.bits = params.bits;
      quantizer.stochastic =
          params.rounding == wire::Rounding::kStochastic && low > -kSaturate && high < kSaturate;
      quantizer.key[0] = static_cast<uint32_t>(key);
      quantizer.key[1] = static_cast<uint32_t>(key >> 32);
      quantizer.row = begin / kernels::kLanes;
      kernels.quantize_encode(quantizer, input, residual, size, stream);
    }
    if (stream.fill != 0) std::memcpy(stream.out, stream.word, sizeof(stream.word));
    shard.size = MaxPayloadBytes(params, n);
  }
  return result;
}

absl::Status Quantize::DecodeGroup(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                                   float weight, kernels::Start start, absl::Span<float> out) const {
  const size_t expected = MaxPayloadBytes(params, out.size());
  kernels::Peers streams;
  for (const wire::Bytes payload : payloads) {
    if (payload.size() != expected) {
      return absl::DataLossError(absl::StrCat("quantize payload of ", out.size(), " elements has ",
                                              payload.size(), " bytes instead of ", expected));
    }
    streams.data[streams.count++] = payload.data() + Blocks(params, out.size()) * kHeaderBytes;
  }
  const float levels = static_cast<float>((1u << params.bits) - 1);
  float minimum[kernels::kMaxPeers];
  float unit[kernels::kMaxPeers];
  for (size_t at = 0, block = 0; at < out.size(); at += params.block, ++block) {
    for (size_t p = 0; p < payloads.size(); ++p) {
      const std::byte* header = payloads[p].data() + block * kHeaderBytes;
      minimum[p] = kernels::FromBf16(wire::Load<uint16_t>(header));
      unit[p] = kernels::FromBf16(wire::Load<uint16_t>(header + sizeof(uint16_t)));
      // The greatest value is finite only if minimum and unit are.
      if (std::signbit(unit[p]) || !std::isfinite(minimum[p] + levels * unit[p])) {
        return absl::DataLossError(
            absl::StrCat("quantize block ", block, " has minimum ", minimum[p], " and unit ", unit[p]));
      }
    }
    kernels::ActiveKernels().quantize_decode(params.bits, streams, minimum, unit, weight,
                                             at / kernels::kLanes, start, out.data() + at,
                                             std::min<size_t>(params.block, out.size() - at));
  }
  return absl::OkStatus();
}

absl::Status Quantize::Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                              Accumulate accumulate, absl::Span<float> out) const {
  if (absl::Status status = CheckParams(params); !status.ok()) return status;
  return DecodeGroup(params, {&payload, 1}, weight, StartOf(accumulate), out);
}

absl::Status Quantize::DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                                 float weight, absl::Span<float> out) const {
  if (absl::Status status = CheckParams(params); !status.ok()) return status;
  return DecodeSumByGroups(payloads, out, [&](absl::Span<const wire::Bytes> group, kernels::Start start) {
    return DecodeGroup(params, group, weight, start, out);
  });
}

const Compressor& QuantizeCompressor() {
  static const auto* const compressor = new Quantize;
  return *compressor;
}

}  // namespace terse
