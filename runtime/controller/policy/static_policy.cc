// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/static_policy.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/wire/matrix_view.h"
#include "runtime/controller/policy/cost_model.h"

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
  const auto matches = [&](const std::string& pattern) { return GlobMatch(pattern, tensor.name); };
  if (std::none_of(config.include.begin(), config.include.end(), matches)) {
    return "no pattern of include matches its name";
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

// How entries travel, and why.
struct SparseChoice {
  wire::Exchange exchange = wire::Exchange::kAllGather;  // kDense: by neither
  std::string reason = "configured";
};

SparseChoice ChooseSparse(const wire::Config& config, int world_size, const TensorInfo& tensor,
                          const wire::CodecParams& params) {
  if (config.topk.exchange == wire::SparseExchange::kAllGather) return {};
  if (config.topk.exchange == wire::SparseExchange::kSparseReduce) return {wire::Exchange::kSparseReduce};

  // Sparse reduce delivers some 3k sums, where all-gather delivers whatever N k entries add up to: it has to
  // be much faster, as it can be beyond 20 ranks.
  constexpr double kWorthIt = 4.0;
  Machine machine;
  machine.bytes_per_s = config.network.gbit * 1e9 / 8;
  machine.latency_s = config.network.latency_us * 1e-6;
  const Workload load{.elements = static_cast<double>(tensor.elements),
                      .ranks = static_cast<double>(world_size)};
  const Kernels& kernels = config.method == wire::Method::kDgc ? kDgcKernels : kTopKKernels;
  const Entries entries = EntriesOf(params);
  const Cost dense = DenseCost(machine, load);
  const Cost gather = AllGatherCost(machine, load, kernels, entries);
  const Cost sparse = SparseReduceCost(machine, load, kernels, entries);
  const auto ms = [](const Cost& cost) { return absl::StrFormat("%.3g ms", 1e3 * cost.seconds); };
  // Headers are no reason to go dense: small tensors share messages.
  const auto loses = [&dense](const Cost& cost) {
    return cost.bytes - cost.overhead > dense.bytes && cost.seconds > dense.seconds;
  };
  if (loses(gather) && loses(sparse)) {
    return {wire::Exchange::kDense,
            absl::StrCat("dense is faster at density ", params.density, ": ", ms(dense), " < ", ms(sparse),
                         " (sparse-reduce), ", ms(gather), " (all-gather) by the cost model")};
  }
  if (kWorthIt * sparse.seconds < gather.seconds) {
    return {wire::Exchange::kSparseReduce, absl::StrCat("configured; sparse-reduce ", ms(sparse),
                                                        ", all-gather ", ms(gather), " by the cost model")};
  }
  return {wire::Exchange::kAllGather, absl::StrCat("configured; all-gather ", ms(gather), ", sparse-reduce ",
                                                   ms(sparse), " by the cost model")};
}

wire::Exchange ExchangeOf(wire::Codec codec) {
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
  std::optional<std::string> dense = ReasonForDense(config, codec, world_size, tensor);
  row.codec = codec;
  row.params = ParamsOf(config, codec);
  row.exchange = ExchangeOf(codec);
  row.error_feedback = config.error_feedback;
  row.reason = "configured";
  if (!dense && codec == wire::Codec::kTopK) {
    SparseChoice choice = ChooseSparse(config, world_size, tensor, row.params);
    row.exchange = choice.exchange;
    row.reason = choice.reason;
    if (choice.exchange == wire::Exchange::kDense) dense = std::move(choice.reason);
  }
  if (dense) return DenseRow(config, tensor.id, *std::move(dense));
  return row;
}

wire::PlanRow DenseRow(const wire::Config& config, uint32_t tensor, std::string reason) {
  wire::PlanRow row;
  row.tensor = tensor;
  row.codec = wire::Codec::kNone;
  row.exchange = config.dense_deterministic ? wire::Exchange::kDeterministicDense : wire::Exchange::kDense;
  row.error_feedback = false;
  row.reason = std::move(reason);
  return row;
}

}  // namespace terse::policy
