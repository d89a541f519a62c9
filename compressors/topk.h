// SPDX-License-Identifier: Apache-2.0
//
// topk: the k elements of greatest magnitude, k = ceil(density n), with their positions. Ties go to the lower
// position, zeros are never sent (so a payload may hold fewer than k). What is not sent stays in the residual
// bitwise; what is sent leaves it bitwise, or but for the rounding of its value to fp16 or bf16.
//
// Selection reads the vector once: the last step's threshold, or where there is none a sample of the vector,
// gives one that a few more than k elements pass, the pass that compensates collects those, and the k largest
// are taken out of them exactly. A vector that this misleads in, or of which much is sent, is read again
// (select.h). With selection `sampled` 0.8 k candidates are enough, and a threshold that fewer pass is
// lowered; of more than k the largest are taken all the same. What is sent are the largest elements under
// either rule. Elements well above where the last steps' thresholds lead are told early (EarlyEntries).
//
// State: k, the least magnitude that was selected, how it grew, and by what share it was foreseen too low.
// With selection `exact` it changes no payload; with `sampled` it may: how many of the 0.8 k to k largest are
// sent.
//
// Payload: count (u32), index coding (u8), Rice parameter (u8, 0 for u32 coding), value format (u8), 0 (u8),
// positions, values (4 or 2 bytes each). Positions are ascending, as u32 or Rice-coded (rice.h).
#ifndef TERSE_COMPRESSORS_TOPK_H_
#define TERSE_COMPRESSORS_TOPK_H_

#include "compressors/compressor.h"

namespace terse {

// How many elements of n are sent at most: ceil(density n), at least 1, at most n (0 for n = 0). The
// product of a decimal density and n that is meant to be whole counts as whole.
size_t TopKCount(double density, size_t n);

class TopK final : public Compressor {
 public:
  wire::Codec codec() const override { return wire::Codec::kTopK; }
  Kind kind() const override { return Kind::kGather; }
  bool fixed_size() const override { return false; }
  bool adds_momentum() const override { return true; }
  bool TellsEarly(const wire::CodecParams& params, size_t n) const override;
  absl::Status CheckParams(const wire::CodecParams& params) const override;
  size_t MaxPayloadBytes(const wire::CodecParams& params, size_t n) const override;
  size_t StateBytes(const wire::CodecParams& params, size_t n) const override;
  size_t ScratchBytes(const wire::CodecParams& params, size_t n) const override;
  absl::StatusOr<EncodeResult> Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                      absl::Span<Shard> shards) const override;
  absl::Status Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                      Accumulate accumulate, absl::Span<float> out) const override;
  absl::Status DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                         float weight, absl::Span<float> out) const override;
  absl::StatusOr<size_t> Support(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                 absl::Span<uint32_t> indices) const override;
  size_t MostEntries(const wire::CodecParams& params, size_t n) const override;
  absl::StatusOr<size_t> Unpack(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                absl::Span<uint32_t> positions, absl::Span<float> values) const override;
  size_t PackedBytes(const wire::CodecParams& params, size_t n, size_t count) const override;
  size_t Pack(const wire::CodecParams& params, size_t n, absl::Span<const uint32_t> positions,
              absl::Span<const float> values, wire::MutableBytes out) const override;
};

const Compressor& TopKCompressor();

}  // namespace terse

#endif  // TERSE_COMPRESSORS_TOPK_H_
