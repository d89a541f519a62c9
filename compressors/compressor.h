// SPDX-License-Identifier: Apache-2.0
//
// The contract of a compressor: a codec between a float vector and bytes.
//
// Compressors are pure functions over memory that the caller owns. They do not allocate, log, throw,
// or keep anything between calls; what must survive from step to step (a warm-started factor, a
// deferred scale) lives in an opaque `state` that the engine owns, zeroes at first use and saves. One
// compressor object serves all tensors and all threads at once; the memory of one tensor is used by one
// thread at a time.
//
// Error feedback is part of encoding, so that a codec can compensate, encode and write the residual
// back in as few passes over memory as its mathematics allows. With c = fl32(input + residual):
//   encode c, then residual <- c - decoded(payload).
// Selection codecs keep an element of c bitwise or send it, bitwise too where values travel as fp32.
// Whatever is rounded leaves residual = fl32(c - decoded), so decoded + residual differs from c by at most
// 2^-24 |residual|, one rounding. Where the sum of input
// and residual leaves the finite range, c is the greatest finite value of its sign. A codec may leave
// the residual in a form that it understands only together with its state ("deferred", reference:
// performance.md); Materialize makes it plain.
//
// Non-finite input: an element that is NaN or Inf counts as 0, is never stored, and sets
// EncodeResult::nonfinite. Residuals are finite always.
//
// Payloads are little-endian and specified byte by byte in docs/wire_format.md. Every SIMD target emits
// the bytes of the scalar reference. Decoding trusts nothing in the bytes: sizes, counts, indices and
// scales are checked before use, and a malformed payload is DATA_LOSS with nothing read or written out
// of bounds.
#ifndef TERSE_COMPRESSORS_COMPRESSOR_H_
#define TERSE_COMPRESSORS_COMPRESSOR_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compressors/early_entries.h"
#include "compressors/kernels/kernels.h"
#include "proto/wire/bytes.h"
#include "proto/wire/plan.h"

namespace terse {

// How the payloads of several ranks combine, which decides what exchanges are possible.
enum class Kind : uint8_t {
  kGather,  // every payload is decoded by all (topk)
  kSplit,   // any block-aligned range is encoded by itself, so a rank can own a shard, sum it and encode
            // it again (onebit, quantize, fp16, bf16, none)
  kLinear,  // round i yields floats that a dense all-reduce sums (powersgd); nothing else travels, but a
            // payload tells what the rank sent, until the step is over
};

// Counter for codecs that draw random numbers: equal keys draw equal numbers, on every SIMD target and
// whatever the number of threads. The codec adds the element's position.
struct RandomKey {
  uint64_t seed = 0;
  uint64_t step = 0;
  uint32_t rank = 0;
  uint32_t tensor = 0;
  uint32_t stage =
      0;  // 0: a rank's own gradient; 1 + k: the owner's second compression of piece k of the sum
};

// One contiguous range of the tensor and where its payload goes. A gather codec is given exactly one
// shard, [0, n). A split codec is given one or more that cover [0, n) in order without gaps, or, in
// EncodeParts, any that do not overlap; each begins at a multiple of BlockElements(). A shard may be empty
// (begin == end): its payload has 0 bytes.
struct Shard {
  size_t begin = 0;
  size_t end = 0;
  wire::MutableBytes out;  // at least MaxPayloadBytes(params, end - begin)
  size_t size = 0;         // set by Encode: bytes written
};

struct EncodeArgs {
  absl::Span<const float> input;  // n elements; the vector to send, before compensation
  // Not null: what is sent is what this rule makes of `input`, the gradient, and its u moves while the codec
  // goes over both. Only with a residual, and for codecs with adds_momentum().
  const kernels::Momentum* momentum = nullptr;
  // n elements, read and replaced. Empty: no error feedback, what is not sent is dropped.
  absl::Span<float> residual;
  // Not empty: the n elements that are read in place of the residual, whose own content does not matter. For
  // codecs with ReadsBefore(), and large vectors: where it can be, the residual is written around the caches.
  absl::Span<const float> before;
  wire::MutableBytes state;    // StateBytes(params, n), zero at first use
  wire::MutableBytes scratch;  // ScratchBytes(params, n), any content, 64-byte aligned
  RandomKey random;
  EarlyEntries* early = nullptr;  // null: nobody wants entries early
};

// One tensor's exchange by a linear codec: the same in all its rounds, but for `scratch`.
struct RoundArgs {
  absl::Span<const int64_t> shape;
  size_t ranks = 1;
  absl::Span<const float> input;  // n elements; read in the first round only
  // n elements, always: c lives here. A caller without error feedback gives zeros and forgets the rest.
  absl::Span<float> residual;
  // The last exchange's payload, where it is still in the residual; empty: nothing is. Taken off by the first
  // round, in the pass that makes c.
  wire::Bytes deferred;
  // Of the sizes that SizesOf names; all aligned for floats, scratch to 64 bytes.
  wire::MutableBytes state;    // zero at first use
  wire::MutableBytes payload;  // any content; kept from round to round
  wire::MutableBytes scratch;  // any content
  RandomKey random;            // equal on all ranks, so rank 0
};

// Bytes of a linear codec's memory for one tensor.
struct RoundSizes {
  size_t state = 0;
  size_t payload = 0;
  size_t scratch = 0;
};

struct EncodeResult {
  bool nonfinite = false;  // the input held a NaN or an Inf (treated as 0)
};

// What an output element gets from a decoded one. kAssignAround: kAssign, by stores around the caches where
// the codec has them, for parts of vectors that are too large for these (kernels::BeyondCaches).
enum class Accumulate : uint8_t { kAssign, kAdd, kAssignAround };

// No codec's ClosingBytes are more.
inline constexpr size_t kMostClosingBytes = 16;

class Compressor {
 public:
  virtual ~Compressor() = default;

  virtual wire::Codec codec() const = 0;
  virtual Kind kind() const = 0;

  // True when MaxPayloadBytes is the exact size of every payload, whatever the data.
  virtual bool fixed_size() const = 0;

  // INVALID_ARGUMENT names the parameter that this codec cannot work with.
  virtual absl::Status CheckParams(const wire::CodecParams& params) const = 0;

  // Worst-case bytes of the payload of n elements (0 for n = 0). A function of its arguments alone, so
  // all ranks compute the same.
  virtual size_t MaxPayloadBytes(const wire::CodecParams& params, size_t n) const = 0;

  // Shards begin at multiples of this (split codecs). At least 8, so that bit streams split at bytes.
  virtual size_t BlockElements(const wire::CodecParams& params) const { return 8; }

  // Gather and split codecs (linear ones: SizesOf).
  virtual size_t StateBytes(const wire::CodecParams& params, size_t n) const { return 0; }
  // Of an Encode with the calling thread's workers (workers.h).
  virtual size_t ScratchBytes(const wire::CodecParams& params, size_t n) const { return 0; }

  // True when Encode does the method dgc's update in its own pass over memory (EncodeArgs::momentum).
  virtual bool adds_momentum() const { return false; }
  // Whether Encode can leave the old residual where it is (EncodeArgs::before).
  virtual bool ReadsBefore(const wire::CodecParams& params) const { return false; }
  // Whether Encode may tell entries early (EncodeArgs::early).
  virtual bool TellsEarly(const wire::CodecParams& params, size_t n) const { return false; }

  // Gather and split codecs. What is known only of the whole input (onebit's scale with block 0) is in the
  // payload of every shard.
  virtual absl::StatusOr<EncodeResult> Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                              absl::Span<Shard> shards) const;

  // Split codecs can encode a vector part after part, in several calls and in any order, so that the first
  // parts travel while the others are encoded: EncodeParts until every element has had its turn, then Close.
  // Encode is the same in one go. Between the calls `args` stay what they are, but for the scratch and
  // for the elements of the input that have been encoded, which are read no more.
  //
  // Where something is known only after the last part, Close writes it to `closing` (ClosingBytes; 0 for
  // most codecs), and whoever has a part's payload must Complete it with these bytes before it decodes it.
  virtual absl::StatusOr<EncodeResult> EncodeParts(const wire::CodecParams& params, const EncodeArgs& args,
                                                   absl::Span<Shard> parts) const;
  virtual size_t ClosingBytes(const wire::CodecParams& params) const { return 0; }
  virtual void Close(const wire::CodecParams& params, const EncodeArgs& args,
                     wire::MutableBytes closing) const {}
  // `closing` has ClosingBytes; what they say is checked by Decode.
  virtual void Complete(const wire::CodecParams& params, wire::Bytes closing,
                        wire::MutableBytes payload) const {}

  // out[i] = weight * decoded[i], or out[i] += weight * decoded[i] (fp32; a product, then a sum: never
  // fused). `out` has the n elements of the shard that the payload encodes; `params` are the plan's.
  // With kAssign every element of `out` is written.
  virtual absl::Status Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                              Accumulate accumulate, absl::Span<float> out) const = 0;

  // out[i] = sum over payloads in the order given of weight * decoded_r[i], the accumulator starting at
  // +0: bit-equal to zeroing `out` and calling Decode(kAdd) for each. Codecs override it to make one
  // pass over `out`.
  virtual absl::Status DecodeSum(const wire::CodecParams& params, absl::Span<const wire::Bytes> payloads,
                                 float weight, absl::Span<float> out) const;

  // Gather codecs: the positions a payload carries, ascending, written to indices (capacity: the count
  // that MaxPayloadBytes allows for). Returns how many. Others: UNIMPLEMENTED.
  virtual absl::StatusOr<size_t> Support(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                         absl::Span<uint32_t> indices) const;

  // Gather codecs: entries by themselves, for exchanges that sum and choose among them on the way.
  // At most so many are in a payload of n elements.
  virtual size_t MostEntries(const wire::CodecParams& params, size_t n) const { return 0; }
  // Reads a payload's entries: ascending positions, and the values as they arrive. Both spans have the
  // capacity; returns how many there are, DATA_LOSS when more. Others: UNIMPLEMENTED.
  virtual absl::StatusOr<size_t> Unpack(const wire::CodecParams& params, wire::Bytes payload, size_t n,
                                        absl::Span<uint32_t> positions, absl::Span<float> values) const;
  // The payload of such entries; a value that the format of `params` cannot hold is rounded. Returns its
  // size, at most PackedBytes(params, n, positions.size()), which `out` has (0 for n = 0). More entries never
  // have a smaller bound.
  virtual size_t PackedBytes(const wire::CodecParams& params, size_t n, size_t count) const { return 0; }
  virtual size_t Pack(const wire::CodecParams& params, size_t n, absl::Span<const uint32_t> positions,
                      absl::Span<const float> values, wire::MutableBytes out) const {
    return 0;
  }

  // Turns a deferred residual into the plain one, in place; a no-op for codecs that never defer.
  virtual void Materialize(const wire::CodecParams& params, wire::MutableBytes state,
                           absl::Span<float> residual) const {}

  // Linear codecs: Rounds() dense all-reduces one after the other, the r-th over RoundFloats() floats of
  // each rank. BeginRound writes this rank's floats; EndRound takes their sum over the ranks, with the last
  // of which `out` (n elements) gets the decoded mean. From the first BeginRound on the residual holds c
  // whole, and `state` is untouched until the last EndRound, so an exchange that ends half-way has lost
  // nothing. What an exchange sent is then in `payload`, and still in the residual: by Decode with weight -1,
  // or as `deferred` of the next exchange, it comes off.
  virtual size_t Rounds(const wire::CodecParams& params) const { return 0; }
  virtual RoundSizes SizesOf(const wire::CodecParams& params, absl::Span<const int64_t> shape) const {
    return {};
  }
  virtual size_t RoundFloats(const wire::CodecParams& params, absl::Span<const int64_t> shape,
                             size_t round) const {
    return 0;
  }
  virtual absl::StatusOr<EncodeResult> BeginRound(const wire::CodecParams& params, const RoundArgs& args,
                                                  size_t round, absl::Span<float> floats) const;
  virtual absl::Status EndRound(const wire::CodecParams& params, const RoundArgs& args, size_t round,
                                absl::Span<const float> sum, absl::Span<float> out) const;
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_COMPRESSOR_H_
