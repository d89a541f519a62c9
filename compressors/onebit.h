// SPDX-License-Identifier: Apache-2.0
//
// onebit: the sign of each element and one scale, for the tensor (params.block 0) or for each block of
// params.block elements (a multiple of 8). Reference: onebit_adam.md.
//
// With scale l2 the scale is sqrt(sum c^2 / n), which keeps the norm; with l1 it is sum |c| / n. Sums are
// fp64 over 16 lanes and a fixed tree, so that every instruction set finds the same scale; it is rounded
// to fp32 once. The sign of 0 is +.
//
// With block 0 the scale is that of the whole tensor, whatever the shards, and is in each payload.
//
// Payload: the scales (fp32), then the signs, one bit each, least significant first, 1 = negative.
#ifndef TERSE_COMPRESSORS_ONEBIT_H_
#define TERSE_COMPRESSORS_ONEBIT_H_

#include "compressors/compressor.h"
#include "compressors/kernels/kernels.h"

namespace terse {

class OneBit final : public Compressor {
 public:
  wire::Codec codec() const override { return wire::Codec::kOneBit; }
  Kind kind() const override { return Kind::kSplit; }
  bool fixed_size() const override { return true; }
  absl::Status CheckParams(const wire::CodecParams& params) const override;
  size_t MaxPayloadBytes(const wire::CodecParams& params, size_t n) const override;
  size_t BlockElements(const wire::CodecParams& params) const override {
    return params.block == 0 ? 8 : params.block;
  }
  absl::StatusOr<EncodeResult> Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                      absl::Span<Shard> shards) const override;
  absl::Status Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                      Accumulate accumulate, absl::Span<float> out) const override;
  absl::Status DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                         float weight, absl::Span<float> out) const override;

 private:
  absl::Status DecodeGroup(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                           float weight, kernels::Start start, absl::Span<float> out) const;
};

const Compressor& OneBitCompressor();

}  // namespace terse

#endif  // TERSE_COMPRESSORS_ONEBIT_H_
