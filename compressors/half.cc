// SPDX-License-Identifier: Apache-2.0
#include "compressors/half.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "compressors/decode_groups.h"
#include "compressors/encode_args.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/workers.h"

namespace terse {

absl::StatusOr<EncodeResult> ElementCompressor::EncodeParts(const wire::CodecParams& params,
                                                            const EncodeArgs& args,
                                                            absl::Span<Shard> parts) const {
  if (absl::Status status = CheckEncodeParts(*this, params, args, parts); !status.ok()) return status;
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  EncodeResult result;
  for (Shard& shard : parts) {
    const size_t n = shard.end - shard.begin;
    std::atomic<bool> nonfinite = false;
    ForRanges(n, kernels::kLanes, [&](size_t begin, size_t end) {
      if (kernels.encode_elements(format_, args.input.data() + shard.begin + begin,
                                  ResidualAt(args, shard.begin + begin), end - begin,
                                  shard.out.data() + begin * element_bytes_)) {
        nonfinite = true;
      }
    });
    result.nonfinite |= nonfinite;
    shard.size = n * element_bytes_;
  }
  return result;
}

absl::Status ElementCompressor::DecodeGroup(absl::Span<const wire::Bytes> payloads, float weight,
                                            kernels::Start start, absl::Span<float> out) const {
  kernels::Peers peers;
  for (const wire::Bytes payload : payloads) {
    if (payload.size() != out.size() * element_bytes_) {
      return absl::DataLossError(absl::StrCat("payload of ", out.size(), " elements has ", payload.size(),
                                              " bytes instead of ", out.size() * element_bytes_));
    }
    peers.data[peers.count++] = payload.data();
  }
  std::atomic<bool> finite = true;
  ForRanges(out.size(), kernels::kLanes, [&](size_t begin, size_t end) {
    kernels::Peers behind = peers;
    for (size_t p = 0; p < behind.count; ++p) behind.data[p] += begin * element_bytes_;
    if (!kernels::ActiveKernels().decode_elements(format_, behind, weight, start, out.data() + begin,
                                                  end - begin)) {
      finite = false;
    }
    if (kernels::Streams(start)) kernels::EndStream();
  });
  if (!finite) return absl::DataLossError("payload holds a value that is NaN or Inf");
  return absl::OkStatus();
}

absl::Status ElementCompressor::Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                                       Accumulate accumulate, absl::Span<float> out) const {
  return DecodeGroup({&payload, 1}, weight, StartOf(accumulate), out);
}

absl::Status ElementCompressor::DecodeSum(const wire::CodecParams& params,
                                          absl::Span<const wire::Bytes> payloads, float weight,
                                          absl::Span<float> out) const {
  return DecodeSumByGroups(payloads, out, [&](absl::Span<const wire::Bytes> group, kernels::Start start) {
    return DecodeGroup(group, weight, start, out);
  });
}

const Compressor& NoneCompressor() {
  static const auto* const compressor =
      new ElementCompressor(wire::Codec::kNone, kernels::ElementFormat::kFp32, 4);
  return *compressor;
}
const Compressor& Fp16Compressor() {
  static const auto* const compressor =
      new ElementCompressor(wire::Codec::kFp16, kernels::ElementFormat::kFp16, 2);
  return *compressor;
}
const Compressor& Bf16Compressor() {
  static const auto* const compressor =
      new ElementCompressor(wire::Codec::kBf16, kernels::ElementFormat::kBf16, 2);
  return *compressor;
}

}  // namespace terse
