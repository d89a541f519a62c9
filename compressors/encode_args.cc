// SPDX-License-Identifier: Apache-2.0
#include "compressors/encode_args.h"

#include "absl/strings/str_cat.h"

namespace terse {
namespace {

absl::Status CheckShards(const Compressor& codec, const wire::CodecParams& params, size_t n,
                         absl::Span<const Shard> shards) {
  if (codec.kind() == Kind::kGather && shards.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a gather codec encodes one shard, [0, n); got ", shards.size()));
  }
  const size_t block = codec.BlockElements(params);
  size_t at = 0;
  for (const Shard& shard : shards) {
    if (shard.begin != at || shard.end < shard.begin) {
      return absl::InvalidArgumentError(
          absl::StrCat("shard [", shard.begin, ", ", shard.end, ") does not continue at element ", at));
    }
    if (shard.begin != shard.end && shard.begin % block != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shard begins at ", shard.begin, ", which is no multiple of the block of ", block));
    }
    const size_t need = codec.MaxPayloadBytes(params, shard.end - shard.begin);
    if (shard.out.size() < need) {
      return absl::InvalidArgumentError(absl::StrCat("shard [", shard.begin, ", ", shard.end,
                                                     ") has room for ", shard.out.size(),
                                                     " bytes and may need ", need));
    }
    at = shard.end;
  }
  if (at != n) {
    return absl::InvalidArgumentError(absl::StrCat("shards end at ", at, " of ", n, " elements"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckEncodeArgs(const Compressor& codec, const wire::CodecParams& params, const EncodeArgs& args,
                             absl::Span<const Shard> shards) {
  if (absl::Status status = codec.CheckParams(params); !status.ok()) return status;
  const size_t n = args.input.size();
  if (!args.residual.empty() && args.residual.size() != n) {
    return absl::InvalidArgumentError(
        absl::StrCat("input has ", n, " elements, residual ", args.residual.size()));
  }
  if (args.momentum != nullptr && (!codec.adds_momentum() || args.residual.empty())) {
    return absl::InvalidArgumentError("momentum is added by a codec that can, with a residual, or before");
  }
  if (args.scratch.size() < codec.ScratchBytes(params, n)) {
    return absl::InvalidArgumentError(
        absl::StrCat("scratch has ", args.scratch.size(), " bytes, needs ", codec.ScratchBytes(params, n)));
  }
  if (args.state.size() < codec.StateBytes(params, n)) {
    return absl::InvalidArgumentError(
        absl::StrCat("state has ", args.state.size(), " bytes, needs ", codec.StateBytes(params, n)));
  }
  return CheckShards(codec, params, n, shards);
}

}  // namespace terse
