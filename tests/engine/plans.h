// SPDX-License-Identifier: Apache-2.0
//
// Plans for tests, such as a policy might make.
#ifndef TERSE_TESTS_ENGINE_PLANS_H_
#define TERSE_TESTS_ENGINE_PLANS_H_

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "proto/wire/plan.h"

namespace terse::engine {

inline wire::PlanRow Dense() {
  wire::PlanRow row;
  row.codec = wire::Codec::kNone;
  row.exchange = wire::Exchange::kDense;
  row.error_feedback = false;
  return row;
}

inline wire::PlanRow Compressed(wire::Codec codec) {
  wire::PlanRow row;
  row.codec = codec;
  row.exchange = codec == wire::Codec::kTopK       ? wire::Exchange::kAllGather
                 : codec == wire::Codec::kPowerSgd ? wire::Exchange::kLowRank
                                                   : wire::Exchange::kScatterReduceAllGather;
  if (codec == wire::Codec::kOneBit) row.params.block = 0;
  return row;
}

inline wire::Plan PlanOf(uint32_t version, uint64_t step, std::vector<wire::PlanRow> rows) {
  for (size_t i = 0; i < rows.size(); ++i) rows[i].tensor = static_cast<uint32_t>(i);
  return {.version = version, .activation_step = step, .rows = std::move(rows)};
}

// Any codec of the method with any of its parameters, or dense.
inline wire::PlanRow RandomRow(wire::Method method, std::mt19937* random) {
  const auto below = [random](uint32_t n) { return static_cast<uint32_t>((*random)() % n); };
  if (below(4) == 0) return Dense();
  std::vector<wire::Codec> codecs = {wire::Codec::kTopK, wire::Codec::kOneBit, wire::Codec::kQuantize,
                                     wire::Codec::kFp16, wire::Codec::kBf16,   wire::Codec::kPowerSgd};
  if (method == wire::Method::kDgc) codecs = {wire::Codec::kTopK};
  if (method == wire::Method::kOneBitAdam) codecs = {wire::Codec::kOneBit};
  wire::PlanRow row = Compressed(codecs[below(static_cast<uint32_t>(codecs.size()))]);
  if (row.codec == wire::Codec::kTopK && below(2) == 0) row.exchange = wire::Exchange::kSparseReduce;
  row.params.density = 0.02 * (1 + below(10));
  row.params.index = below(2) == 0 ? wire::IndexCoding::kU32 : wire::IndexCoding::kRice;
  row.params.bits = 1 + below(8);
  row.params.block = row.codec == wire::Codec::kOneBit ? 64 * below(3) : 64 << below(4);
  row.params.rounding = below(2) == 0 ? wire::Rounding::kNearest : wire::Rounding::kStochastic;
  row.params.span = static_cast<wire::QuantizeSpan>(below(3));
  if (row.codec == wire::Codec::kQuantize && wire::QuantizeErrorGain(row.params) > 1) row.params.bits = 8;
  row.params.selection = below(2) == 0 ? wire::SelectionRule::kExact : wire::SelectionRule::kSampled;
  row.params.values = static_cast<wire::ValueFormat>(below(3));
  row.params.rank = 1 + below(4);
  row.params.error = below(2) == 0 ? wire::LowRankError::kLocal : wire::LowRankError::kAveraged;
  row.params.scale = below(2) == 0 ? wire::ScaleNorm::kL2 : wire::ScaleNorm::kL1;
  return row;
}

}  // namespace terse::engine

#endif  // TERSE_TESTS_ENGINE_PLANS_H_
