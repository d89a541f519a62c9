// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/tensor.h"

#include <algorithm>
#include <cassert>

#include "compressors/registry.h"
#include "proto/wire/messages.h"

namespace terse::engine {

void Tensor::SetRow(const wire::PlanRow& next) {
  row = next;
  codec = FindCompressor(row.codec);
  was_compressed |= row.codec != wire::Codec::kNone;
  if (method != nullptr) method->Replan(Facts());
}

size_t Tensor::PieceElements(const wire::CodecParams& params) const {
  const size_t block = codec->BlockElements(params);
  constexpr size_t kMany = size_t{1} << 20;
  const size_t fits = wire::kPieceBytes * kMany / codec->MaxPayloadBytes(params, kMany);
  return std::max(fits / block, size_t{1}) * block;
}

size_t Tensor::Pieces(const wire::CodecParams& params, int size) const {
  const Shard first = ShardOf(params, 0, size);
  const size_t each = PieceElements(params);
  return std::max((first.end - first.begin + each - 1) / each, size_t{1});
}

Shard Tensor::PieceOf(const wire::CodecParams& params, int r, int size, size_t piece) const {
  Shard shard = ShardOf(params, r, size);
  const size_t each = PieceElements(params);
  shard.begin = std::min(shard.end, shard.begin + piece * each);
  shard.end = std::min(shard.end, shard.begin + each);
  return shard;
}

void Tensor::Materialize() {
  if (!deferred.empty()) {
    // Made by this rank, of a result that was finite: nothing to refuse.
    [[maybe_unused]] const absl::Status taken =
        codec->Decode(pending.params, deferred, -1.0f, Accumulate::kAdd, method->residual());
    assert(taken.ok());
    deferred.clear();
  }
  codec->Materialize(row.params, absl::MakeSpan(worker_state), method->residual());
  MaterializeServer(absl::MakeSpan(server_state), absl::MakeSpan(server_residual));
}

void Tensor::MaterializeServer(wire::MutableBytes state, absl::Span<float> error) const {
  const size_t each = error.empty() ? 0 : PieceElements(row.params);
  while (!error.empty()) {
    const absl::Span<float> piece = error.first(std::min(each, error.size()));
    const size_t bytes = std::min(codec->StateBytes(row.params, piece.size()), state.size());
    codec->Materialize(row.params, state.first(bytes), piece);
    state.remove_prefix(bytes);
    error.remove_prefix(piece.size());
  }
}

absl::Status ResolvePending(Tensor* tensor, double applied) {
  Tensor::Pending& pending = tensor->pending;
  if (!pending.active) return absl::OkStatus();
  pending.active = false;
  if (pending.nonfinite) applied = 0.0;
  if (pending.server_moved > 0) {
    // What an exchange that failed did not come to is where it was.
    std::copy(pending.server_before.begin() + static_cast<ptrdiff_t>(pending.server_moved),
              pending.server_before.end(),
              tensor->server_residual.begin() + static_cast<ptrdiff_t>(pending.server_moved));
  }

  const double returned = pending.dense ? 0.0 : tensor->method->ReturnFraction(applied);
  const absl::Span<float> residual = tensor->method->residual();
  const bool touches_residual = returned > 0.0 || applied < 1.0 || !pending.excess.empty();
  if (returned >= 1.0 && !tensor->deferred.empty()) {
    // All of it, and none has come off yet.
    tensor->deferred.clear();
    pending.shards.clear();
  }
  if (touches_residual && !pending.dense) tensor->Materialize();
  if (returned > 0.0 && !residual.empty()) {
    std::vector<std::byte> completed;
    for (const Shard& shard : pending.shards) {
      wire::Bytes payload = pending.payloads;
      if (pending.sent != nullptr) {
        completed.assign(shard.out.begin(), shard.out.begin() + static_cast<ptrdiff_t>(shard.size));
        tensor->codec->Complete(pending.params, pending.closing, absl::MakeSpan(completed));
        payload = completed;
      }
      if (shard.begin == shard.end) continue;
      const absl::Status status =
          tensor->codec->Decode(pending.params, payload, static_cast<float>(returned), Accumulate::kAdd,
                                residual.subspan(shard.begin, shard.end - shard.begin));
      if (!status.ok()) return status;
    }
    // delivered = (mean of what was sent) + server_before - server_residual. With the senders taking back
    // `returned` of what they sent, the owner takes back the same part of its change of the error.
    const absl::Span<float> before = absl::MakeSpan(pending.server_before).first(pending.server_moved);
    tensor->MaterializeServer(absl::MakeSpan(pending.server_state_before), before);
    const auto back = static_cast<float>(returned);
    for (size_t i = 0; i < before.size(); ++i) {
      tensor->server_residual[i] =
          back >= 1.0f ? before[i] : (1.0f - back) * tensor->server_residual[i] + back * before[i];
    }
  }
  pending.sent.reset();
  // An exchange that fails before its second compression must not find that of the one before.
  pending.server_moved = 0;
  pending.server_state_before.clear();
  tensor->method->Resolve(applied);
  const absl::Span<float> kept = tensor->method->excess();
  for (const Excess& excess : pending.excess) kept[excess.at] += static_cast<float>(applied) * excess.value;
  pending.excess.clear();
  if (applied > 0) ++tensor->applied;
  return absl::OkStatus();
}

}  // namespace terse::engine
