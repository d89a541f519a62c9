// SPDX-License-Identifier: Apache-2.0
//
// What a codec gets when it does not say otherwise.
#include "compressors/compressor.h"

#include <algorithm>

namespace terse {
namespace {

absl::Status NotLinear() {
  return absl::UnimplementedError("this codec is not linear: it has no rounds; call Encode and Decode");
}

}  // namespace

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

absl::StatusOr<size_t> Compressor::Unpack(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                          absl::Span<uint32_t> positions, absl::Span<float> values) const {
  return absl::UnimplementedError("this codec sends every element; only gather codecs have entries");
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
