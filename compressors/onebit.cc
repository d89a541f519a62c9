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

// What block 0 keeps of a vector, in the caller's bytes.
struct State {
  static constexpr size_t kBytes = 16;
  double sum = 0;      // over the parts encoded so far
  float deferred = 0;  // the scale that was sent and is still to be taken off the residual; 0: none

  static State Load(wire::Bytes bytes) {
    const State state{wire::Load<double>(bytes.data()), wire::Load<float>(bytes.data() + sizeof(double))};
    // Saved state is bytes from a file.
    const bool good = std::isfinite(state.sum) && std::isfinite(state.deferred) && state.deferred >= 0;
    return good ? state : State();
  }
  void Store(wire::MutableBytes bytes) const {
    wire::Store(bytes.data(), sum);
    wire::Store(bytes.data() + sizeof(double), deferred);
  }
};

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

size_t OneBit::StateBytes(const wire::CodecParams& params, size_t n) const {
  return params.block == 0 ? State::kBytes : 0;
}

absl::StatusOr<EncodeResult> OneBit::EncodeParts(const wire::CodecParams& params, const EncodeArgs& args,
                                                 absl::Span<Shard> parts) const {
  if (absl::Status status = CheckEncodeParts(*this, params, args, parts); !status.ok()) return status;
  EncodeResult result;
  if (params.block != 0) {
    for (Shard& part : parts) result.nonfinite |= EncodeBlocks(params, args, &part).nonfinite;
    return result;
  }
  State state = State::Load(args.state);
  for (Shard& part : parts) {
    const size_t n = part.end - part.begin;
    part.size = MaxPayloadBytes(params, n);
    if (n == 0) continue;
    wire::Store(part.out.data(), 0.0f);
    const kernels::Sum sum = kernels::ActiveKernels().onebit_defer(
        params.scale, state.deferred, args.input.data() + part.begin, ResidualAt(args, part.begin), n,
        part.out.data() + sizeof(float));
    state.sum += sum.value;
    result.nonfinite |= sum.nonfinite;
  }
  state.Store(args.state);
  return result;
}

EncodeResult OneBit::EncodeBlocks(const wire::CodecParams& params, const EncodeArgs& args,
                                  Shard* part) const {
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  EncodeResult result;
  const size_t n = part->end - part->begin;
  std::byte* scales = part->out.data();
  std::byte* bits = scales + Scales(params, n) * sizeof(float);
  for (size_t at = 0; at < n; at += params.block) {
    const size_t size = std::min<size_t>(params.block, n - at);
    const float* input = args.input.data() + part->begin + at;
    float* residual = ResidualAt(args, part->begin + at);
    const kernels::Sum sum = kernels.onebit_sum(params.scale, input, residual, size);
    const float scale = ScaleOf(params.scale, sum.value, size);
    result.nonfinite |= sum.nonfinite;
    wire::Store(scales, scale);
    scales += sizeof(scale);
    if (scale == 0.0f) {
      std::memset(bits + at / 8, 0, (size + 7) / 8);
    } else {
      kernels.onebit_encode(scale, input, residual, size, bits + at / 8);
    }
  }
  part->size = MaxPayloadBytes(params, n);
  return result;
}

size_t OneBit::ClosingBytes(const wire::CodecParams& params) const {
  return params.block == 0 ? sizeof(float) : 0;
}

void OneBit::Close(const wire::CodecParams& params, const EncodeArgs& args,
                   wire::MutableBytes closing) const {
  if (params.block != 0) return;
  State state = State::Load(args.state);
  const float scale = args.input.empty() ? 0.0f : ScaleOf(params.scale, state.sum, args.input.size());
  wire::Store(closing.data(), scale);
  state.sum = 0;
  state.deferred = args.residual.empty() ? 0.0f : scale;
  state.Store(args.state);
}

// A scale of 0 sends no sign, so that 0 never decodes as -0.
void OneBit::Complete(const wire::CodecParams& params, wire::Bytes closing,
                      wire::MutableBytes payload) const {
  if (params.block != 0 || payload.empty()) return;
  std::memcpy(payload.data(), closing.data(), sizeof(float));
  if (wire::Load<float>(closing.data()) != 0.0f) return;
  std::memset(payload.data() + sizeof(float), 0, payload.size() - sizeof(float));
}

void OneBit::Materialize(const wire::CodecParams& params, wire::MutableBytes state,
                         absl::Span<float> residual) const {
  if (params.block != 0 || state.size() < State::kBytes) return;
  State deferred = State::Load(state);
  if (deferred.deferred == 0.0f) return;
  constexpr size_t kChunk = 4096;
  std::byte bits[kChunk / 8];
  for (size_t at = 0; at < residual.size(); at += kChunk) {
    float* const c = residual.data() + at;
    kernels::ActiveKernels().onebit_encode(deferred.deferred, c, c, std::min(kChunk, residual.size() - at),
                                           bits);
  }
  deferred.deferred = 0.0f;
  deferred.Store(state);
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
  const absl::Status status = DecodeGroup(params, {&payload, 1}, weight, StartOf(accumulate), out);
  if (accumulate == Accumulate::kAssignAround) kernels::EndStream();
  return status;
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
