// SPDX-License-Identifier: Apache-2.0
//
// onebit: the sign of each element and one scale, for the tensor (params.block 0) or for each block of
// params.block elements (a multiple of 8). Reference: onebit_adam.md.
//
// With scale l2 the scale is sqrt(sum c^2 / n), which keeps the norm; with l1 it is sum |c| / n. Sums are
// fp64 over 16 lanes and a fixed tree, so that every instruction set finds the same scale; it is rounded
// to fp32 once. The sign of 0 is +.
//
// With block 0 the scale is that of the whole vector, whatever the shards, and is in each payload. It is
// known when the last part has been encoded, so it is what Close writes; until Complete it is 0 in the
// payloads. One pass over memory does it: c is left in the residual, and what it sent is taken off by the
// next pass, which knows the scale (the state) and finds the sign in c itself ("deferred residual",
// performance.md section 2a). The bits, the scales and the residual made plain are those of two passes.
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
  size_t StateBytes(const wire::CodecParams& params, size_t n) const override;
  bool ReadsBefore(const wire::CodecParams& params) const override { return params.block == 0; }
  absl::StatusOr<EncodeResult> EncodeParts(const wire::CodecParams& params, const EncodeArgs& args,
                                           absl::Span<Shard> parts) const override;
  absl::Status Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                      Accumulate accumulate, absl::Span<float> out) const override;
  absl::Status DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                         float weight, absl::Span<float> out) const override;
  size_t ClosingBytes(const wire::CodecParams& params) const override;
  void Close(const wire::CodecParams& params, const EncodeArgs& args,
             wire::MutableBytes closing) const override;
  void Complete(const wire::CodecParams& params, wire::Bytes closing,
                wire::MutableBytes payload) const override;
  void Materialize(const wire::CodecParams& params, wire::MutableBytes state,
                   absl::Span<float> residual) const override;

 private:
  EncodeResult EncodeBlocks(const wire::CodecParams& params, const EncodeArgs& args, Shard* part) const;
  absl::Status DecodeGroup(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                           float weight, kernels::Start start, absl::Span<float> out) const;
};

const Compressor& OneBitCompressor();

}  // namespace terse

#endif  // TERSE_COMPRESSORS_ONEBIT_H_
