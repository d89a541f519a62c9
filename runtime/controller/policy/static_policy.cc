// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/static_policy.h"

#include <optional>

#include "proto/wire/matrix_view.h"

namespace terse::policy {
namespace {

// Why the tensor goes dense, or nothing when it does not.
std::optional<std::string> ReasonForDense(const wire::Config& config, wire::Codec codec, int world_size,
                                          const TensorInfo& tensor) {
  if (config.disable) return "compression is disabled";
  if (world_size == 1) return "one rank: nothing to exchange";
  if (codec == wire::Codec::kNone) return "compressor none";
  if (tensor.elements < static_cast<uint64_t>(config.min_elements)) {
    return "below min_elements (" + std::to_string(tensor.elements) + " < " +
           std::to_string(config.min_elements) + ")";
  }
  for (const std::string& pattern : config.exclude) {
    if (GlobMatch(pattern, tensor.name)) return "excluded by \"" + pattern + "\"";
  }
  if (codec == wire::Codec::kPowerSgd) {
    const wire::MatrixView view = wire::ViewAsMatrix(tensor.shape);
    const auto rank = static_cast<uint64_t>(config.powersgd.rank);
    if (view.FactorFloats(rank) >= tensor.elements) {
      return "factors of rank " + std::to_string(view.RankWithin(rank)) + " are not smaller (" +
             std::to_string(view.rows) + " x " + std::to_string(view.columns) + ": " +
             std::to_string(view.FactorFloats(rank)) + " of " + std::to_string(tensor.elements) + " floats)";
    }
  }
  return std::nullopt;
}

wire::CodecParams ParamsOf(const wire::Config& config, wire::Codec codec) {
  wire::CodecParams params;
  params.density = config.method == wire::Method::kDgc ? config.dgc.density : config.topk.density;
  params.index = config.topk.index;
  params.selection = config.topk.selection;
  params.values = config.topk.values;
  params.bits = static_cast<uint32_t>(config.quantize.bits);
  params.rounding = config.quantize.rounding;
  params.span = config.quantize.span;
  params.block =
      static_cast<uint32_t>(codec == wire::Codec::kOneBit ? config.onebit.block : config.quantize.block);
  params.scale = config.onebit.scale;
  params.rank = static_cast<uint32_t>(config.powersgd.rank);
  params.error = config.powersgd.error;
  return params;
}

wire::Exchange ExchangeOf(wire::Codec codec) {
  if (codec == wire::Codec::kTopK) return wire::Exchange::kAllGather;
  if (codec == wire::Codec::kPowerSgd) return wire::Exchange::kLowRank;
  return wire::Exchange::kScatterReduceAllGather;
}

}  // namespace

wire::Codec CodecOf(const wire::Config& config) {
  switch (config.method) {
    case wire::Method::kDgc:
      return wire::Codec::kTopK;
    case wire::Method::kOneBitAdam:
      return wire::Codec::kOneBit;
    case wire::Method::kAllreduce:
      break;
  }
  return config.compressor;
}

bool GlobMatch(std::string_view pattern, std::string_view name) {
  // Greedy with one point to come back to: linear in practice and never exponential.
  size_t p = 0;
  size_t n = 0;
  size_t star = std::string_view::npos;
  size_t retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

wire::PlanRow StaticRow(const wire::Config& config, int world_size, const TensorInfo& tensor) {
  wire::PlanRow row;
  row.tensor = tensor.id;
  const wire::Codec codec = CodecOf(config);
  if (std::optional<std::string> reason = ReasonForDense(config, codec, world_size, tensor)) {
    row.codec = wire::Codec::kNone;
    row.exchange = config.dense_deterministic ? wire::Exchange::kDeterministicDense : wire::Exchange::kDense;
    row.error_feedback = false;
    row.reason = *std::move(reason);
    return row;
  }
  row.codec = codec;
  row.params = ParamsOf(config, codec);
  row.exchange = ExchangeOf(codec);
  row.error_feedback = config.error_feedback;
  row.reason = "configured";
  return row;
}

}  // namespace terse::policy
