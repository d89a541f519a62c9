// SPDX-License-Identifier: Apache-2.0
//
// The codecs that send each element by itself: fp32 verbatim (none), IEEE half precision (fp16) and
// bfloat16 (bf16), the last two rounded to nearest even. A value beyond the format's range is sent as
// its largest finite one; what is cut off stays in the residual.
//
// Payload: n values of 4 or 2 bytes. Decoding refuses the patterns of NaN and Inf.
#ifndef TERSE_COMPRESSORS_HALF_H_
#define TERSE_COMPRESSORS_HALF_H_

#include "compressors/compressor.h"
#include "compressors/kernels/kernels.h"

namespace terse {

class ElementCompressor final : public Compressor {
 public:
  constexpr ElementCompressor(wire::Codec codec, kernels::ElementFormat format, size_t element_bytes)
      : codec_(codec), format_(format), element_bytes_(element_bytes) {}

  wire::Codec codec() const override { return codec_; }
  Kind kind() const override { return Kind::kSplit; }
  bool fixed_size() const override { return true; }
  absl::Status CheckParams(const wire::CodecParams& params) const override { return absl::OkStatus(); }
  size_t MaxPayloadBytes(const wire::CodecParams& params, size_t n) const override {
    return n * element_bytes_;
  }
  absl::StatusOr<EncodeResult> EncodeParts(const wire::CodecParams& params, const EncodeArgs& args,
                                           absl::Span<Shard> parts) const override;
  absl::Status Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                      Accumulate accumulate, absl::Span<float> out) const override;
  absl::Status DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                         float weight, absl::Span<float> out) const override;

 private:
  absl::Status DecodeGroup(absl::Span<const wire::Bytes> payloads, float weight, kernels::Start start,
                           absl::Span<float> out) const;

  wire::Codec codec_;
  kernels::ElementFormat format_;
  size_t element_bytes_;
};

const Compressor& NoneCompressor();
const Compressor& Fp16Compressor();
const Compressor& Bf16Compressor();

}  // namespace terse

#endif  // TERSE_COMPRESSORS_HALF_H_
