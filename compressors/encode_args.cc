// SPDX-License-Identifier: Apache-2.0
#include "compressors/encode_args.h"

#include "absl/strings/str_cat.h"

namespace terse {
namespace {

absl::Status CheckPart(const Compressor& codec, const wire::CodecParams& params, size_t n,
                       const Shard& part) {
  const size_t block = codec.BlockElements(params);
  if (part.end < part.begin || part.end > n) {
    return absl::InvalidArgumentError(
        absl::StrCat("[", part.begin, ", ", part.end, ") is no range of ", n, " elements"));
  }
  if (part.begin != part.end && part.begin % block != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard begins at ", part.begin, ", which is no multiple of the block of ", block));
  }
  const size_t need = codec.MaxPayloadBytes(params, part.end - part.begin);
  if (part.out.size() < need) {
    return absl::InvalidArgumentError(absl::StrCat("shard [", part.begin, ", ", part.end, ") has room for ",
                                                   part.out.size(), " bytes and may need ", need));
  }
  return absl::OkStatus();
}

absl::Status CheckCover(const Compressor& codec, size_t n, absl::Span<const Shard> shards) {
  if (codec.kind() == Kind::kGather && shards.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a gather codec encodes one shard, [0, n); got ", shards.size()));
  }
  size_t at = 0;
  for (const Shard& shard : shards) {
    if (shard.begin != at) {
      return absl::InvalidArgumentError(
          absl::StrCat("shard [", shard.begin, ", ", shard.end, ") does not continue at element ", at));
    }
    at = shard.end;
  }
  if (at != n) {
    return absl::InvalidArgumentError(absl::StrCat("shards end at ", at, " of ", n, " elements"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckEncodeParts(const Compressor& codec, const wire::CodecParams& params,
                              const EncodeArgs& args, absl::Span<const Shard> parts) {
  if (absl::Status status = codec.CheckParams(params); !status.ok()) return status;
  const size_t n = args.input.size();
  if (!args.residual.empty() && args.residual.size() != n) {
    return absl::InvalidArgumentError(
        absl::StrCat("input has ", n, " elements, residual ", args.residual.size()));
  }
  if (!args.before.empty() && (!codec.ReadsBefore(params) || args.before.size() != args.residual.size())) {
    return absl::InvalidArgumentError(absl::StrCat("the residual before has ", args.before.size(),
                                                   " elements, the residual ", args.residual.size(),
                                                   "; it is for codecs that can read it from there"));
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
  for (const Shard& part : parts) {
    if (absl::Status status = CheckPart(codec, params, n, part); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckEncodeArgs(const Compressor& codec, const wire::CodecParams& params, const EncodeArgs& args,
                             absl::Span<const Shard> shards) {
  if (absl::Status status = CheckEncodeParts(codec, params, args, shards); !status.ok()) return status;
  return CheckCover(codec, args.input.size(), shards);
}

}  // namespace terse
