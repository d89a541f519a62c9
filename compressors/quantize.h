// SPDX-License-Identifier: Apache-2.0
//
// quantize: evenly spaced levels for each block of params.block elements (reference: lgreco.md section 2).
// A block has a minimum and a unit, and each element a code of params.bits bits:
//   decoded = minimum + code * unit,   0 <= code < 2^bits
// params.span says what the levels reach over:
//   minmax   from the block's least element to its greatest (CGX's form of QSGD)
//   max, l2  s = 2^(bits - 1) - 1 levels to each side of 0, as far as the block's greatest magnitude or its
//            L2 norm (QSGD as published, Alistarh et al., 2017: a norm, signs, and s levels); minimum = -s
//            unit
// Minimum and unit are bfloat16, rounded outward: the minimum down and the unit up, so that the codes
// reach over all of the block. Codes are rounded to nearest, or up with a probability equal to the
// fraction (stochastic), by random numbers that depend on the element's position and RandomKey alone.
//
// Stochastic rounding is unbiased, and l2 is for it: most elements of a large block are far below the first
// level of l2, which nearest rounding would never send.
//
// For coding, elements are saturated at +-2^126, so that range and decoded values stay finite; a block
// that holds such an element is rounded to nearest. What is cut off stays in the residual. A unit is 0
// (a block of equal elements that bfloat16 represents; of zeros) or at least 2^-126.
//
// Payload: for each block minimum and unit, or the unit alone, then the codes of all blocks as 16 parallel
// streams (kernels.h, LaneStream), filled up with zeros to whole words.
#ifndef TERSE_COMPRESSORS_QUANTIZE_H_
#define TERSE_COMPRESSORS_QUANTIZE_H_

#include "compressors/compressor.h"
#include "compressors/kernels/kernels.h"

namespace terse {

class Quantize final : public Compressor {
 public:
  wire::Codec codec() const override { return wire::Codec::kQuantize; }
  Kind kind() const override { return Kind::kSplit; }
  bool fixed_size() const override { return true; }
  absl::Status CheckParams(const wire::CodecParams& params) const override;
  size_t MaxPayloadBytes(const wire::CodecParams& params, size_t n) const override;
  size_t BlockElements(const wire::CodecParams& params) const override { return params.block; }
  bool ReadsBefore(const wire::CodecParams& params) const override { return true; }
  absl::StatusOr<EncodeResult> EncodeParts(const wire::CodecParams& params, const EncodeArgs& args,
                                           absl::Span<Shard> parts) const override;
  absl::Status Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                      Accumulate accumulate, absl::Span<float> out) const override;
  absl::Status DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                         float weight, absl::Span<float> out) const override;

 private:
  // Elements [from, to) of a shard; `from` is a multiple of the block and of 512. Returns whether something
  // was not finite.
  bool EncodeRange(const wire::CodecParams& params, const EncodeArgs& args, const Shard& shard, size_t from,
                   size_t to) const;
  absl::Status DecodeGroup(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                           float weight, kernels::Start start, absl::Span<float> out) const;
};

const Compressor& QuantizeCompressor();

}  // namespace terse

#endif  // TERSE_COMPRESSORS_QUANTIZE_H_
