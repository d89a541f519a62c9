// SPDX-License-Identifier: Apache-2.0
//
// Engine::Adopt: how a tensor goes from one codec to another, or to dense and back, without losing what
// waits.
#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "compressors/registry.h"
#include "proto/wire/text.h"
#include "runtime/controller/policy/static_policy.h"
#include "runtime/engine/engine.h"

namespace terse::engine {
namespace {

bool Fits(const Compressor& codec, wire::Exchange exchange) {
  if (codec.codec() == wire::Codec::kNone) return IsDense(exchange);
  switch (codec.kind()) {
    case Kind::kGather:
      return exchange == wire::Exchange::kAllGather || exchange == wire::Exchange::kSparseReduce;
    case Kind::kSplit:
      return exchange == wire::Exchange::kScatterReduceAllGather;
    case Kind::kLinear:
      return exchange == wire::Exchange::kLowRank;
  }
  return false;
}

}  // namespace

absl::Status Engine::CheckRow(const Tensor& tensor, const wire::PlanRow& row) const {
  const auto error = [&](auto... words) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor.name, "': ", words...));
  };
  const absl::string_view codec_name = wire::View(wire::Name(row.codec));
  const Compressor* const codec = FindCompressor(row.codec);
  if (codec == nullptr) return error("codec ", codec_name, " is not in this build");
  if (absl::Status status = codec->CheckParams(row.params); !status.ok()) return error(status.message());
  if (!Fits(*codec, row.exchange)) {
    return error("codec ", codec_name, " does not go by ", wire::View(wire::Name(row.exchange)));
  }
  if (config_.method != wire::Method::kAllreduce && row.codec != wire::Codec::kNone &&
      row.codec != policy::CodecOf(config_)) {
    return error("codec ", codec_name, " does not go with method ", wire::View(wire::Name(config_.method)));
  }
  if (codec->kind() == Kind::kGather && tensor.elements > std::numeric_limits<uint32_t>::max()) {
    return error("positions are 32 bit; exclude it or split it");
  }
  if (!IsDense(row.exchange) && row.error_feedback != config_.error_feedback) {
    return error("error feedback is the configuration's, not the plan's");
  }
  if (row.codec == wire::Codec::kQuantize && row.error_feedback &&
      wire::QuantizeErrorGain(row.params) > 1.0) {
    return error("quantize with ", row.params.bits,
                 " bits may leave behind more than it encodes, and error feedback would let that grow");
  }
  return absl::OkStatus();
}

absl::Status Engine::Adopt(const wire::Plan& plan) {
  if (!broken_.ok()) return broken_;
  if (!outstanding_.empty() || !done_.empty()) {
    return absl::FailedPreconditionError("requests are outstanding; plans change between steps");
  }
  if (plan.version <= plan_version_ || plan.activation_step != step_ || plan.rows.size() != tensors_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan ", plan.version, " for step ", plan.activation_step, " and ", plan.rows.size(),
                     " tensors does not follow plan ", plan_version_, " at step ", step_, " with ",
                     tensors_.size(), " tensors"));
  }
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    if (plan.rows[i].tensor != i) {
      return absl::InvalidArgumentError(
          absl::StrCat("plan ", plan.version, ": row ", i, " is of tensor ", plan.rows[i].tensor));
    }
    if (absl::Status status = CheckRow(*tensors_[i], plan.rows[i]); !status.ok()) return status;
  }
  return AdoptRows(plan.version, plan.rows);
}

absl::Status Engine::AdoptRows(uint32_t version, absl::Span<const wire::PlanRow> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    Tensor& tensor = *tensors_[i];
    const bool as_planned = wire::RowText(tensor.planned) == wire::RowText(tensor.row);
    const bool changed = wire::RowText(rows[i]) != wire::RowText(tensor.planned);
    tensor.planned = rows[i];
    if (changed) {
      if (absl::Status status = Note(Switch(rows[i], &tensor)); !status.ok()) return status;
      StartTiming(&tensor);
    }
    if (changed || as_planned) tensor.row.reason = rows[i].reason;
  }
  plan_version_ = version;
  plan_hash_ = PlanHash();
  return absl::OkStatus();
}

absl::Status Engine::Adapt() {
  const auto rows = adaptation_->Decide(tensors_, step_, skipped_, patience_);
  if (!rows.ok()) return Note(rows.status());
  if (!rows->has_value()) return absl::OkStatus();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (absl::Status status = Note(CheckRow(*tensors_[i], (**rows)[i])); !status.ok()) return status;
  }
  return AdoptRows(plan_version_ + 1, **rows);
}

absl::Status Engine::Switch(const wire::PlanRow& row, Tensor* tensor) {
  if (absl::Status status = ResolvePending(tensor, 1.0); !status.ok()) return status;
  FoldServerError(tensor);
  // A codec that stays keeps its state: powersgd's directions are good at another rank too.
  if (row.codec != tensor->row.codec) tensor->worker_state.clear();
  tensor->server_state.clear();
  tensor->SetRow(row);
  if (freeze_ != nullptr && freeze_->frozen()) tensor->method->Freeze(freeze_->state().warmup_steps);
  return absl::OkStatus();
}

// Makes the residual plain and moves the owner's error into it. That is in units of the result: as part of
// the owner's residual it will be weighted once more, and no longer depends on how shards are cut.
void Engine::FoldServerError(Tensor* tensor) {
  tensor->Materialize();
  const absl::Span<float> server = absl::MakeSpan(tensor->server_residual);
  if (server.empty()) return;
  const absl::Span<float> residual = tensor->method->residual();
  const Shard own = tensor->ShardOf(tensor->row.params, rank(), size());
  const float unit = config_.reduce == wire::Reduce::kMean ? static_cast<float>(size()) : 1.0f;
  constexpr float kMost = std::numeric_limits<float>::max();
  for (size_t i = 0; i < server.size(); ++i) {
    float& r = residual[own.begin + i];
    r = std::clamp(r + unit * server[i], -kMost, kMost);
  }
  tensor->server_residual.clear();
}

}  // namespace terse::engine
