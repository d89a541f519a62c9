// SPDX-License-Identifier: Apache-2.0
#include "compressors/quantize.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "compressors/decode_groups.h"
#include "compressors/encode_args.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"
#include "compressors/random_key.h"
#include "compressors/workers.h"

namespace terse {
namespace {

constexpr size_t kMaxBlock = size_t{1} << 20;
constexpr size_t kBlocksTogether = 16;  // at most, in Encode
constexpr float kSaturate = 0x1p126f;
constexpr float kLeastUnit = 0x1p-126f;  // its reciprocal is finite

size_t Blocks(const wire::CodecParams& params, size_t n) { return (n + params.block - 1) / params.block; }

bool FromMinimum(const wire::CodecParams& params) { return params.span == wire::QuantizeSpan::kMinMax; }

// Of one block: minimum and unit, or the unit alone.
size_t HeaderBytes(const wire::CodecParams& params) { return FromMinimum(params) ? 4 : 2; }

// Levels to each side of 0, with a span that has two sides.
uint32_t SideLevels(const wire::CodecParams& params) { return (1u << (params.bits - 1)) - 1; }

// The least bfloat16 with which `levels` units reach over `width`, which is finite; 0 for no width. In fp64,
// where neither differences of floats nor sums of their squares overflow.
uint16_t CoveringUnit(double width, uint32_t levels) {
  if (width <= 0.0) return 0;
  uint16_t unit = kernels::ToBf16Up(std::max(static_cast<float>(width / levels), kLeastUnit));
  // The conversion to float may have rounded down to a bfloat16.
  if (double{kernels::FromBf16(unit)} * levels < width) ++unit;
  return unit;
}

// The levels of one block.
struct Levels {
  float minimum = 0;
  float unit = 0;
};

// The same from the bytes of a header, which may be anything.
Levels LoadLevels(const wire::CodecParams& params, const std::byte* header) {
  if (FromMinimum(params)) {
    return {kernels::FromBf16(wire::Load<uint16_t>(header)),
            kernels::FromBf16(wire::Load<uint16_t>(header + sizeof(uint16_t)))};
  }
  const float unit = kernels::FromBf16(wire::Load<uint16_t>(header));
  return {0.0f - static_cast<float>(SideLevels(params)) * unit, unit};
}

// The greatest value is finite only if minimum and unit are.
bool Good(const wire::CodecParams& params, const Levels& levels) {
  const float greatest_code = static_cast<float>((1u << params.bits) - 1);
  return !std::signbit(levels.unit) && std::isfinite(levels.minimum + greatest_code * levels.unit);
}

// The float before x > 0 (std::nextafter, which is a call for each block), or 0.
float Below(float x) { return x == 0.0f ? x : std::bit_cast<float>(std::bit_cast<uint32_t>(x) - 1); }

// What Encode has to know of a block before its codes.
struct BlockSpan {
  bool saturated = false;  // it holds elements that the levels do not reach
  bool nonfinite = false;
  bool compensated = false;  // c is in the residual
};

// Writes the header that covers a block. May leave c in the residual.
BlockSpan StoreHeader(const wire::CodecParams& params, const float* input, const float* before,
                      float* residual, size_t n, std::byte* header) {
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  const auto bring = [&] {
    if (before != residual) std::copy_n(before, n, residual);
  };
  if (params.span == wire::QuantizeSpan::kL2) {
    bring();
    const kernels::Sum sum = kernels.onebit_sum(wire::ScaleNorm::kL2, input, residual, n);
    const double norm = std::min(std::sqrt(sum.value), double{kSaturate});
    wire::Store(header, CoveringUnit(norm, SideLevels(params)));
    return {norm == kSaturate, sum.nonfinite, true};
  }
  kernels::Range range;
  kernels.range(input, before, n, &range);
  if (!range.plain && residual != nullptr) {
    bring();
    kernels.compensate(input, residual, n);
  }
  const float low = std::clamp(range.low, -kSaturate, kSaturate);
  const float high = std::clamp(range.high, -kSaturate, kSaturate);
  if (FromMinimum(params)) {
    const uint16_t minimum = kernels::ToBf16Down(low + 0.0f);  // -0 becomes 0: min(-0, 0) may be either
    wire::Store(header, minimum);
    header += sizeof(minimum);
    const double width = double{high} - double{kernels::FromBf16(minimum)};
    wire::Store(header, CoveringUnit(width, (1u << params.bits) - 1));
  } else {
    wire::Store(header, CoveringUnit(std::max(-low, high), SideLevels(params)));
  }
  return {low == -kSaturate || high == kSaturate, range.nonfinite, !range.plain};
}

// Field by field: a struct that is returned would be copied through memory in other pieces than it was
// written in, which a processor waits for.
void SetQuantizer(const wire::CodecParams& params, const Levels& levels, const BlockSpan& span, uint64_t key,
                  size_t begin, kernels::Quantizer* quantizer) {
  quantizer->minimum = levels.minimum;
  quantizer->unit = levels.unit;
  quantizer->bits = params.bits;
  quantizer->greatest_code = FromMinimum(params) ? (1u << params.bits) - 1 : 2 * SideLevels(params);
  quantizer->stochastic = params.rounding == wire::Rounding::kStochastic && !span.saturated;
  quantizer->saturated = span.saturated;
  quantizer->compensated = span.compensated;
  const float inverse = levels.unit == 0.0f ? 0.0f : 1.0f / levels.unit;
  quantizer->inverse = quantizer->stochastic ? Below(inverse) : inverse;
  quantizer->key[0] = static_cast<uint32_t>(key);
  quantizer->key[1] = static_cast<uint32_t>(key >> 32);
  quantizer->row = begin / kernels::kLanes;
}

}  // namespace

absl::Status Quantize::CheckParams(const wire::CodecParams& params) const {
  if (params.bits < 1 || params.bits > 8) {
    return absl::InvalidArgumentError(absl::StrCat("quantize.bits is ", params.bits, "; it must be 1 to 8"));
  }
  if (params.bits == 1 && !FromMinimum(params)) {
    return absl::InvalidArgumentError(
        "quantize.bits is 1; with quantize.span max or l2 it must be 2 to 8, one of them for the sign");
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
  return Blocks(params, n) * HeaderBytes(params) + words * kernels::kLanes * sizeof(uint32_t);
}

absl::StatusOr<EncodeResult> Quantize::EncodeParts(const wire::CodecParams& params, const EncodeArgs& args,
                                                   absl::Span<Shard> parts) const {
  if (absl::Status status = CheckEncodeParts(*this, params, args, parts); !status.ok()) return status;
  std::atomic<bool> nonfinite = false;
  for (Shard& shard : parts) {
    // Ranges of whole blocks whose codes end with a word of the lanes.
    const size_t n = shard.end - shard.begin;
    const size_t unit = std::lcm(size_t{params.block}, 32 * kernels::kLanes);
    ForRanges(n, unit, [&](size_t begin, size_t end) {
      if (EncodeRange(params, args, shard, begin, end)) nonfinite = true;
    });
    shard.size = MaxPayloadBytes(params, n);
  }
  return EncodeResult{nonfinite};
}

bool Quantize::EncodeRange(const wire::CodecParams& params, const EncodeArgs& args, const Shard& shard,
                           size_t from, size_t to) const {
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  const uint64_t key = StreamKey(args.random);
  bool nonfinite = false;
  std::byte* headers = shard.out.data() + from / params.block * HeaderBytes(params);
  kernels::LaneStream stream;
  stream.out = shard.out.data() + Blocks(params, shard.end - shard.begin) * HeaderBytes(params) +
               from / kernels::kLanes * params.bits / 32 * sizeof(stream.word);
  // The levels of some blocks, then their codes: what a header takes its time for (sums over lanes, two
  // divisions, one after the other) goes on while the next block's range is looked for.
  const size_t together = std::clamp<size_t>(kernels::kRangeAhead / params.block, 1, kBlocksTogether);
  kernels::Quantizer quantizers[kBlocksTogether];
  for (size_t at = from; at < to;) {
    const size_t end = std::min(to, at + together * params.block);
    for (size_t block = at, k = 0; block < end; block += params.block, ++k) {
      const size_t begin = shard.begin + block;
      const BlockSpan span =
          StoreHeader(params, args.input.data() + begin, BeforeAt(args, begin), ResidualAt(args, begin),
                      std::min<size_t>(params.block, to - block), headers);
      SetQuantizer(params, LoadLevels(params, headers), span, key, begin, &quantizers[k]);
      headers += HeaderBytes(params);
      nonfinite |= span.nonfinite;
    }
    for (size_t k = 0; at < end; at += params.block, ++k) {
      const size_t begin = shard.begin + at;
      kernels.quantize_encode(quantizers[k], args.input.data() + begin, BeforeAt(args, begin),
                              ResidualAt(args, begin), std::min<size_t>(params.block, to - at), stream);
    }
  }
  if (stream.fill != 0) std::memcpy(stream.out, stream.word, sizeof(stream.word));
  if (!args.before.empty()) kernels::EndStream();
  return nonfinite;
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
    streams.data[streams.count++] = payload.data() + Blocks(params, out.size()) * HeaderBytes(params);
  }
  constexpr size_t kNone = std::numeric_limits<size_t>::max();
  std::atomic<size_t> bad = kNone;  // a block whose levels are no floats, the first of some range
  ForRanges(out.size(), params.block, [&](size_t begin, size_t end) {
    float minimum[kernels::kMaxPeers];
    float unit[kernels::kMaxPeers];
    for (size_t at = begin; at < end && bad == kNone; at += params.block) {
      const size_t block = at / params.block;
      for (size_t p = 0; p < payloads.size(); ++p) {
        const Levels levels = LoadLevels(params, payloads[p].data() + block * HeaderBytes(params));
        if (!Good(params, levels)) bad = block;
        minimum[p] = levels.minimum;
        unit[p] = levels.unit;
      }
      if (bad != kNone) break;
      kernels::ActiveKernels().quantize_decode(params.bits, streams, minimum, unit, weight,
                                               at / kernels::kLanes, start, out.data() + at,
                                               std::min<size_t>(params.block, end - at));
    }
    if (kernels::Streams(start)) kernels::EndStream();
  });
  if (bad == kNone) return absl::OkStatus();
  for (const wire::Bytes payload : payloads) {
    const Levels levels = LoadLevels(params, payload.data() + bad * HeaderBytes(params));
    if (Good(params, levels)) continue;
    return absl::DataLossError(absl::StrCat("quantize block ", bad.load(), " has minimum ", levels.minimum,
                                            " and unit ", levels.unit));
  }
  return absl::InternalError("a block of quantize was bad and is not");
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
