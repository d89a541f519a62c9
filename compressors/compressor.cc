// SPDX-License-Identifier: Apache-2.0
//
// What a codec gets when it does not say otherwise.
#include "compressors/compressor.h"

#include <algorithm>

#include "compressors/encode_args.h"

namespace terse {
namespace {

absl::Status NotLinear() {
  return absl::UnimplementedError("this codec is not linear: it has no rounds; call Encode and Decode");
}

}  // namespace

absl::StatusOr<EncodeResult> Compressor::Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                                absl::Span<Shard> shards) const {
  if (absl::Status status = CheckEncodeArgs(*this, params, args, shards); !status.ok()) return status;
  absl::StatusOr<EncodeResult> result = EncodeParts(params, args, shards);
  if (!result.ok()) return result;
  std::byte bytes[kMostClosingBytes];
  const wire::MutableBytes closing(bytes, ClosingBytes(params));
  Close(params, args, closing);
  for (Shard& shard : shards) Complete(params, closing, shard.out.first(shard.size));
  return result;
}

absl::StatusOr<EncodeResult> Compressor::EncodeParts(const wire::CodecParams& params, const EncodeArgs& args,
                                                     absl::Span<Shard> parts) const {
  return absl::UnimplementedError("this codec encodes a vector as a whole, not in parts");
}

absl::Status Compressor::DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                                   float weight, absl::Span<float> out) const {
  std::fill(out.begin(), out.end(), 0.0f);
  for (const wire::Bytes payload : payloads) {
    absl::Status status = Decode(params, payload, weight, Accumulate::kAdd, out);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Compressor::Support(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                           absl::Span<uint32_t> indices) const {
  return absl::UnimplementedError("this codec sends every element; only gather codecs have a support");
}

absl::StatusOr<EncodeResult> Compressor::BeginRound(const wire::CodecParams& params, const RoundArgs& args,
                                                    size_t round, absl::Span<float> floats) const {
  return NotLinear();
}

absl::Status Compressor::EndRound(const wire::CodecParams& params, const RoundArgs& args, size_t round,
                                  absl::Span<const float> sum, absl::Span<float> out) const {
  return NotLinear();
}

}  // namespace terse
