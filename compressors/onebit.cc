// SPDX-License-Identifier: Apache-2.0
#include "compressors/onebit.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "compressors/decode_groups.h"
#include "compressors/encode_args.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/kernels/floats.h"
#include "compressors/workers.h"

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

// onebit_defer, divided among the workers by chunks: their sums are added in order, as a single call adds
// them.
kernels::Sum Defer(wire::ScaleNorm norm, float deferred, const float* input, const float* before,
                   float* residual, size_t n, std::byte* bits) {
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  if (WorkersFor(n) == 1) {
    const kernels::Sum sum = kernels.onebit_defer(norm, deferred, input, before, residual, n, bits);
    if (before != residual) kernels::EndStream();
    return sum;
  }
  constexpr size_t kTogether = 1024;  // chunks whose sums are kept
  double sums[kTogether];
  std::atomic<bool> nonfinite = false;
  kernels::Sum total;
  for (size_t first = 0; first < n; first += kTogether * kernels::kSumChunk) {
    const size_t size = std::min(n - first, kTogether * kernels::kSumChunk);
    ForRanges(size, kernels::kSumChunk, [&](size_t begin, size_t end) {
      for (size_t at = begin; at < end; at += kernels::kSumChunk) {
        const size_t here = first + at;
        const kernels::Sum sum =
            kernels.onebit_defer(norm, deferred, input + here, before == nullptr ? nullptr : before + here,
                                 residual == nullptr ? nullptr : residual + here,
                                 std::min(kernels::kSumChunk, end - at), bits + here / 8);
        sums[at / kernels::kSumChunk] = sum.value;
        if (sum.nonfinite) nonfinite = true;
      }
      if (before != residual) kernels::EndStream();
    });
    for (size_t chunk = 0; chunk * kernels::kSumChunk < size; ++chunk) total.value += sums[chunk];
  }
  total.nonfinite = nonfinite;
  return total;
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
    const kernels::Sum sum =
        Defer(params.scale, state.deferred, args.input.data() + part.begin, BeforeAt(args, part.begin),
              ResidualAt(args, part.begin), n, part.out.data() + sizeof(float));
    state.sum += sum.value;
    result.nonfinite |= sum.nonfinite;
  }
  state.Store(args.state);
  return result;
}

EncodeResult OneBit::EncodeBlocks(const wire::CodecParams& params, const EncodeArgs& args,
                                  Shard* part) const {
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  std::atomic<bool> nonfinite = false;
  const size_t n = part->end - part->begin;
  std::byte* const scales = part->out.data();
  std::byte* const bits = scales + Scales(params, n) * sizeof(float);
  ForRanges(n, params.block, [&](size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += params.block) {
      const size_t size = std::min<size_t>(params.block, end - at);
      const float* input = args.input.data() + part->begin + at;
      float* residual = ResidualAt(args, part->begin + at);
      const kernels::Sum sum = kernels.onebit_sum(params.scale, input, residual, size);
      const float scale = ScaleOf(params.scale, sum.value, size);
      if (sum.nonfinite) nonfinite = true;
      wire::Store(scales + at / params.block * sizeof(scale), scale);
      if (scale == 0.0f) {
        std::memset(bits + at / 8, 0, (size + 7) / 8);
      } else {
        kernels.onebit_encode(scale, input, residual, size, bits + at / 8);
      }
    }
  });
  part->size = MaxPayloadBytes(params, n);
  return {nonfinite};
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
  const size_t scales = Scales(params, out.size());
  for (size_t index = 0; index < scales; ++index) {
    for (const wire::Bytes payload : payloads) {
      const float scale = wire::Load<float>(payload.data() + index * sizeof(float));
      if (std::isfinite(scale) && !std::signbit(scale)) continue;
      return absl::DataLossError(absl::StrCat("onebit scale ", index, " is ", scale));
    }
  }
  // A block that is not the whole vector stays in one range.
  const size_t block = BlockOf(params, out.size());
  ForRanges(out.size(), params.block == 0 ? kernels::kLanes : block, [&](size_t begin, size_t end) {
    kernels::Peers bits;
    bits.count = payloads.size();
    float weighted[kernels::kMaxPeers];
    for (size_t at = begin; at < end; at += block) {
      for (size_t p = 0; p < payloads.size(); ++p) {
        weighted[p] = weight * wire::Load<float>(payloads[p].data() + at / block * sizeof(float));
        bits.data[p] = payloads[p].data() + scales * sizeof(float) + at / 8;
      }
      kernels::ActiveKernels().onebit_decode(bits, weighted, start, out.data() + at,
                                             std::min(block, end - at));
    }
    if (kernels::Streams(start)) kernels::EndStream();
  });
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
