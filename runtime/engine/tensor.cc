// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/tensor.h"

#include "compressors/registry.h"

namespace terse::engine {

void Tensor::SetRow(const wire::PlanRow& next) {
  row = next;
  codec = FindCompressor(row.codec);
  was_compressed |= row.codec != wire::Codec::kNone;
  if (method != nullptr) method->Replan(Facts());
}

absl::Status ResolvePending(Tensor* tensor, double applied) {
  Tensor::Pending& pending = tensor->pending;
  if (!pending.active) return absl::OkStatus();
  pending.active = false;
  if (pending.nonfinite) applied = 0.0;

  const double returned = pending.dense ? 0.0 : tensor->method->ReturnFraction(applied);
  const absl::Span<float> residual = tensor->method->residual();
  if (returned > 0.0 && !residual.empty()) {
    size_t at = 0;
    for (const Shard& shard : pending.shards) {
      const wire::Bytes payload = wire::Bytes(pending.payloads).subspan(at, shard.size);
      at += shard.size;
      if (shard.begin == shard.end) continue;
      const absl::Status status =
          tensor->codec->Decode(pending.params, payload, static_cast<float>(returned), Accumulate::kAdd,
                                residual.subspan(shard.begin, shard.end - shard.begin));
      if (!status.ok()) return status;
    }
    // delivered = (mean of what was sent) + server_before - server_residual. With the senders taking back
    // `returned` of what they sent, the owner takes back the same part of its change of the error.
    const auto back = static_cast<float>(returned);
    for (size_t i = 0; i < pending.server_before.size(); ++i) {
      tensor->server_residual[i] =
          back >= 1.0f ? pending.server_before[i]
                       : (1.0f - back) * tensor->server_residual[i] + back * pending.server_before[i];
    }
  }
  // An exchange that fails before its second compression must not find that of the one before.
  pending.server_before.clear();
  tensor->method->Resolve(applied);
  const absl::Span<float> kept = tensor->method->excess();
  for (const Excess& excess : pending.excess) kept[excess.at] += static_cast<float>(applied) * excess.value;
  pending.excess.clear();
  if (applied > 0) ++tensor->applied;
  return absl::OkStatus();
}

}  // namespace terse::engine
