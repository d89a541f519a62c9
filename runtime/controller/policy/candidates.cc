// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/candidates.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/wire/matrix_view.h"
#include "proto/wire/text.h"
#include "runtime/controller/policy/calibration.h"
#include "runtime/controller/policy/setting.h"

namespace terse::policy {
namespace {

constexpr size_t kMostRanks = 32;
constexpr int kDensitySteps = 6;  // to each side, of the square root of 2

// All settings of a family as configurations, so that rows are made in one place.
std::vector<wire::Config> SettingsOf(const wire::Config& config, wire::Codec family,
                                     const TensorInfo& tensor) {
  const wire::Config base = WithCompressor(config, family);
  std::vector<wire::Config> all;
  switch (family) {
    case wire::Codec::kQuantize:
      for (int64_t bits = 2; bits <= 8; ++bits) {
        all.push_back(base);
        all.back().quantize.bits = bits;
      }
      break;
    case wire::Codec::kTopK:
      for (int step = -kDensitySteps; step <= kDensitySteps; ++step) {
        // Whole powers of 2 exactly, so that the configured density is among them.
        const double factor = std::ldexp(step % 2 == 0 ? 1.0 : std::sqrt(2.0), step >> 1);
        all.push_back(base);
        all.back().topk.density = std::min(1.0, config.topk.density * factor);
      }
      break;
    case wire::Codec::kPowerSgd: {
      const int64_t least = std::max<int64_t>(1, config.powersgd.rank / 2);
      const auto most = static_cast<int64_t>(
          wire::ViewAsMatrix(tensor.shape).RankWithin(static_cast<uint64_t>(2 * config.powersgd.rank)));
      const int64_t every = std::max<int64_t>(1, (most - least) / static_cast<int64_t>(kMostRanks));
      for (int64_t rank = least; rank <= most; rank += every) {
        all.push_back(base);
        all.back().powersgd.rank = rank;
      }
      // Whatever the steps, the configured rank is one.
      all.push_back(base);
      break;
    }
    case wire::Codec::kNone:
      break;
    default:
      all.push_back(base);
  }
  return all;
}

// The candidate of `codec` whose bytes are nearest to `bytes`, by their ratio.
size_t Nearest(const std::vector<Candidate>& all, wire::Codec codec, double bytes) {
  size_t nearest = 0;
  double least = HUGE_VAL;
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].row.codec != codec || all[i].bytes <= 0 || bytes <= 0) continue;
    const double away = std::fabs(std::log(all[i].bytes / bytes));
    if (away < least) {
      least = away;
      nearest = i;
    }
  }
  return nearest;
}

}  // namespace

std::vector<Family> FamiliesOf(const Candidates& candidates) {
  std::vector<Family> families;
  for (const Candidate& candidate : candidates.all) {
    if (families.empty() || families.back().codec != candidate.row.codec)
      families.push_back({candidate.row.codec, {}});
    families.back().settings.push_back(candidate.row.params);
  }
  return families;
}

double BytesOf(const wire::PlanRow& row, int world_size, const TensorInfo& tensor) {
  return CostOf(row, Machine(), world_size, tensor).bytes;
}

Candidates CandidatesOf(const wire::Config& config, int world_size, const TensorInfo& tensor) {
  Candidates candidates;
  const wire::PlanRow uniform = StaticRow(config, world_size, tensor);
  // What is small, excluded or alone stays dense whatever the family.
  const wire::PlanRow dense =
      uniform.codec == wire::Codec::kNone
          ? uniform
          : DenseRow(config, tensor.id, "dense costs least for what it leaves behind");
  candidates.all.push_back({dense, BytesOf(dense, world_size, tensor)});
  if (uniform.codec == wire::Codec::kNone) return candidates;
  const double dense_bytes = candidates.all[0].bytes;

  std::vector<wire::Codec> all = {config.compressor};
  for (const std::string& name : config.policy.families) {
    const std::optional<wire::Codec> family = wire::ParseCodec(name);
    if (family.has_value() && std::find(all.begin(), all.end(), *family) == all.end()) all.push_back(*family);
  }
  for (const wire::Codec family : all) {
    const size_t first = candidates.all.size();
    for (const wire::Config& setting : SettingsOf(config, family, tensor)) {
      wire::PlanRow row = StaticRow(setting, world_size, tensor);
      if (row.codec != family) continue;
      if (family == wire::Codec::kQuantize && row.error_feedback && wire::QuantizeErrorGain(row.params) > 1.0)
        continue;
      const double bytes = BytesOf(row, world_size, tensor);
      const bool configured = wire::RowText(row) == wire::RowText(uniform);
      if (bytes >= dense_bytes && !configured) continue;
      candidates.all.push_back({std::move(row), bytes});
    }
    const auto begin = candidates.all.begin() + static_cast<ptrdiff_t>(first);
    std::stable_sort(begin, candidates.all.end(),
                     [](const Candidate& a, const Candidate& b) { return a.bytes < b.bytes; });
    candidates.all.erase(std::unique(begin, candidates.all.end(),
                                     [](const Candidate& a, const Candidate& b) {
                                       return wire::RowText(a.row) == wire::RowText(b.row);
                                     }),
                         candidates.all.end());
  }
  for (size_t i = 0; i < candidates.all.size(); ++i) {
    if (wire::RowText(candidates.all[i].row) == wire::RowText(uniform)) candidates.uniform = i;
  }
  const double bytes = candidates.all[candidates.uniform].bytes;
  candidates.strong = Nearest(candidates.all, uniform.codec, bytes / 2);
  candidates.mild = Nearest(candidates.all, uniform.codec, bytes * 2);
  return candidates;
}

}  // namespace terse::policy
