// SPDX-License-Identifier: Apache-2.0
//
// The checks that every codec makes of what it is asked to encode.
#ifndef TERSE_COMPRESSORS_ENCODE_ARGS_H_
#define TERSE_COMPRESSORS_ENCODE_ARGS_H_

#include "absl/status/status.h"
#include "compressors/compressor.h"

namespace terse {

// INVALID_ARGUMENT, in words, when the parameters are not the codec's, the spans of `args` disagree or
// are too small, or `shards` break the rules at Shard.
absl::Status CheckEncodeArgs(const Compressor& codec, const wire::CodecParams& params, const EncodeArgs& args,
                             absl::Span<const Shard> shards);

// The same for ranges in any order that need not cover the vector.
absl::Status CheckEncodeParts(const Compressor& codec, const wire::CodecParams& params,
                              const EncodeArgs& args, absl::Span<const Shard> parts);

// The residual of a shard, or nullptr without error feedback.
inline float* ResidualAt(const EncodeArgs& args, size_t begin) {
  return args.residual.empty() ? nullptr : args.residual.data() + begin;
}

// Where a shard's residual is read.
inline const float* BeforeAt(const EncodeArgs& args, size_t begin) {
  return args.before.empty() ? ResidualAt(args, begin) : args.before.data() + begin;
}

}  // namespace terse

#endif  // TERSE_COMPRESSORS_ENCODE_ARGS_H_
