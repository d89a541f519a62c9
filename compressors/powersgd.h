// SPDX-License-Identifier: Apache-2.0
//
// powersgd: the tensor as a matrix M (rows x columns, wire/matrix_view.h), sent as two thin factors that a
// dense all-reduce sums. One step of a power iteration, started from the last step's result:
//
//   round 0    P_i = M_i orthonormal(Q)            P = orthonormal(sum of P_i)
//   round 1    Q_i = transpose(M_i) P              Q = mean of Q_i
//   result     P transpose(Q)                      the same bits on all ranks
//
// with M_i = c of compressor.h. params.rank is the number of columns, never more than the matrix's shorter
// side has. Error feedback takes off P transpose(Q), what all decode (params.error kAveraged), or
// P transpose(Q_i), the rank's own part of it (kLocal). The mean of the residuals is the same in both; docs/
// decisions/0012 says why kLocal is the default.
//
// State: the last Q, column after column, fp32, equal on all ranks. Zero columns, as at first use, become
// random ones; a column of which a step brought nothing (no gradient) keeps the last. When the rank changes,
// the leading columns stay what they were. An exchange that does not end leaves it alone; a skipped step does
// not take it back.
//
// Elements of P_i and Q_i are kept within +-2^90, so that no sum leaves the finite range: of a matrix with
// longer rows or columns only as much is sent in a step.
//
// The residual is deferred: it keeps c, and what was sent comes off in the next step's pass over it.
//
// Payload (kept by the engine until the next step; never sent): rows, columns (u64), P, then Q (averaged) or
// Q_i (local), as fp32. It decodes to what error feedback took off.
//
// Source: Vogels et al., "PowerSGD", NeurIPS 2019, algorithm 1; reference/lgreco.md section 2 for the two
// conventions.
#ifndef TERSE_COMPRESSORS_POWERSGD_H_
#define TERSE_COMPRESSORS_POWERSGD_H_

#include "compressors/compressor.h"

namespace terse {

class PowerSgd final : public Compressor {
 public:
  wire::Codec codec() const override { return wire::Codec::kPowerSgd; }
  Kind kind() const override { return Kind::kLinear; }
  bool fixed_size() const override { return false; }
  absl::Status CheckParams(const wire::CodecParams& params) const override;
  // Of any shape of n elements.
  size_t MaxPayloadBytes(const wire::CodecParams& params, size_t n) const override;

  // UNIMPLEMENTED: a linear codec has rounds.
  absl::StatusOr<EncodeResult> Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                      absl::Span<Shard> shards) const override;
  // INVALID_ARGUMENT when the payload is not aligned for floats.
  absl::Status Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                      Accumulate accumulate, absl::Span<float> out) const override;

  size_t Rounds(const wire::CodecParams& params) const override { return 2; }
  RoundSizes SizesOf(const wire::CodecParams& params, absl::Span<const int64_t> shape) const override;
  size_t RoundFloats(const wire::CodecParams& params, absl::Span<const int64_t> shape,
                     size_t round) const override;
  absl::StatusOr<EncodeResult> BeginRound(const wire::CodecParams& params, const RoundArgs& args,
                                          size_t round, absl::Span<float> floats) const override;
  absl::Status EndRound(const wire::CodecParams& params, const RoundArgs& args, size_t round,
                        absl::Span<const float> sum, absl::Span<float> out) const override;
};

const Compressor& PowerSgdCompressor();

}  // namespace terse

#endif  // TERSE_COMPRESSORS_POWERSGD_H_
