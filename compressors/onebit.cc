// SPDX-License-Identifier: Apache-2.0
#include "compressors/onebit.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "compressors/decode_groups.h"
#include "compressors/encode_args.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"

namespace terse {
namespace {

size_t Scales(const wire::CodecParams& params, size_t n) {
  if (params.block == 0) return n == 0 ? 0 : 1;
  return (n + params.block - 1) / params.block;
}

// Elements that share the scale, in a payload of n.
size_t BlockOf(const wire::CodecParams& params, size_t n) { return params.block == 0 ? n : params.block; }

float ScaleOf(wire::ScaleNorm norm, double sum, size_t n) {
  const double mean = sum / static_cast<double>(n);
  // The mean of finite floats is in range; its square root in fp64 may be a last place above FLT_MAX,
  // which rounds back to it.
  return static_cast<float>(norm == wire::ScaleNorm::kL1 ? mean : std::sqrt(mean));
}

// Signs of n compensated elements. A scale of 0 sends no sign, so that 0 never decodes as -0.
void EncodeSigns(float scale, const float* input, float* residual, size_t n, std::byte* bits) {
  if (scale == 0.0f) {
    std::memset(bits, 0, (n + 7) / 8);
  } else {
    kernels::ActiveKernels().onebit_encode(scale, input, residual, n, bits);
  }
}

}  // namespace

absl::Status OneBit::CheckParams(const wire::CodecParams& params) const {
  if (params.block % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("onebit.block is ", params.block, "; it must be 0 or a multiple of 8"));
  }
  return absl::OkStatus();
}

size_t OneBit::MaxPayloadBytes(const wire::CodecParams& params, size_t n) const {
  return Scales(params, n) * sizeof(float) + (n + 7) / 8;
}

absl::StatusOr<EncodeResult> OneBit::Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                            absl::Span<Shard> shards) const {
  if (absl::Status status = CheckEncodeArgs(*this, params, args, shards); !status.ok()) return status;
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  EncodeResult result;
  float scale = 0.0f;
  if (params.block == 0 && !args.input.empty()) {
    const kernels::Sum sum =
        kernels.onebit_sum(params.scale, args.input.data(), ResidualAt(args, 0), args.input.size());
    scale = ScaleOf(params.scale, sum.value, args.input.size());
    result.nonfinite = sum.nonfinite;
  }
  for (Shard& shard : shards) {
    const size_t n = shard.end - shard.begin;
    const size_t block = BlockOf(params, n);
    std::byte* scales = shard.out.data();
    std::byte* bits = scales + Scales(params, n) * sizeof(float);
    for (size_t at = 0; at < n; at += block) {
      const size_t size = std::min(block, n - at);
      const float* input = args.input.data() + shard.begin + at;
      float* residual = ResidualAt(args, shard.begin + at);
      if (params.block != 0) {
        const kernels::Sum sum = kernels.onebit_sum(params.scale, input, residual, size);
        scale = ScaleOf(params.scale, sum.value, size);
        result.nonfinite |= sum.nonfinite;
      }
      wire::Store(scales, scale);
      scales += sizeof(scale);
      EncodeSigns(scale, input, residual, size, bits + at / 8);
    }
    shard.size = MaxPayloadBytes(params, n);
  }
  return result;
}

absl::Status OneBit::DecodeGroup(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                                 float weight, kernels::Start start, absl::Span<float> out) const {
  for (const wire::Bytes payload : payloads) {
    if (payload.size() != MaxPayloadBytes(params, out.size())) {
      return absl::DataLossError(absl::StrCat("onebit payload of ", out.size(), " elements has ",
                                              payload.size(), " bytes instead of ",
                                              MaxPayloadBytes(params, out.size())));
    }
  }
  const size_t block = BlockOf(params, out.size());
  const size_t scale_bytes = Scales(params, out.size()) * sizeof(float);
  kernels::Peers bits;
  bits.count = payloads.size();
  float weighted[kernels::kMaxPeers];
  for (size_t at = 0, index = 0; at < out.size(); at += block, ++index) {
    for (size_t p = 0; p < payloads.size(); ++p) {
      const float scale = wire::Load<float>(payloads[p].data() + index * sizeof(float));
      if (!std::isfinite(scale) || std::signbit(scale)) {
        return absl::DataLossError(absl::StrCat("onebit scale ", index, " is ", scale));
      }
      weighted[p] = weight * scale;
      bits.data[p] = payloads[p].data() + scale_bytes + at / 8;
    }
    kernels::ActiveKernels().onebit_decode(bits, weighted, start, out.data() + at,
                                           std::min(block, out.size() - at));
  }
  return absl::OkStatus();
}

absl::Status OneBit::Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                            Accumulate accumulate, absl::Span<float> out) const {
  if (absl::Status status = CheckParams(params); !status.ok()) return status;
  return DecodeGroup(params, {&payload, 1}, weight, StartOf(accumulate), out);
}

absl::Status OneBit::DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                               float weight, absl::Span<float> out) const {
  if (absl::Status status = CheckParams(params); !status.ok()) return status;
  return DecodeSumByGroups(payloads, out, [&](absl::Span<const wire::Bytes> group, kernels::Start start) {
    return DecodeGroup(params, group, weight, start, out);
  });
}

const Compressor& OneBitCompressor() {
  static const auto* const compressor = new OneBit;
  return *compressor;
}

}  // namespace terse
