// SPDX-License-Identifier: Apache-2.0
//
// The plan: what each tensor's exchange does from a step on. It is the one type in which control and
// data meet: a policy makes it, the engine obeys it. A plan is immutable and carries a version; plans
// change between steps only.
#ifndef TERSE_PROTO_WIRE_PLAN_H_
#define TERSE_PROTO_WIRE_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/wire/types.h"

namespace terse::wire {

enum class ScaleNorm : uint8_t { kL2 = 0, kL1 = 1 };
enum class Rounding : uint8_t { kNearest = 0, kStochastic = 1 };
enum class IndexCoding : uint8_t { kU32 = 0, kRice = 1 };
enum class SelectionRule : uint8_t { kExact = 0, kSampled = 1 };
enum class ValueFormat : uint8_t { kFp32 = 0, kFp16 = 1, kBf16 = 2 };
// What powersgd's error feedback takes off: what all ranks decode, or what this rank itself put into it.
enum class LowRankError : uint8_t { kAveraged = 0, kLocal = 1 };

// Parameters of every codec; a codec reads those of its own and ignores the rest.
struct CodecParams {
  double density = 0.01;                            // topk: fraction of the elements sent, (0, 1]
  IndexCoding index = IndexCoding::kU32;            // topk
  SelectionRule selection = SelectionRule::kExact;  // topk: how elements are chosen
  ValueFormat values = ValueFormat::kFp32;          // topk: how their values travel
  uint32_t bits = 4;                                // quantize: 1 to 8
  uint32_t block = 512;                             // quantize: elements that share a minimum and a unit;
                                                    // onebit: elements that share a scale, 0: the tensor
  Rounding rounding = Rounding::kNearest;           // quantize
  ScaleNorm scale = ScaleNorm::kL2;                 // onebit
  uint32_t rank = 4;                                // powersgd: columns of a factor, 1 to 1024
  LowRankError error = LowRankError::kLocal;        // powersgd

  friend bool operator==(const CodecParams&, const CodecParams&) = default;
};

// What happens to one tensor, and why.
struct PlanRow {
  uint32_t tensor = 0;  // id, in order of registration
  Codec codec = Codec::kNone;
  CodecParams params;
  Exchange exchange = Exchange::kDense;
  bool error_feedback = true;
  std::string reason;  // for people: "below min_elements (840 < 4096)"

  friend bool operator==(const PlanRow&, const PlanRow&) = default;
};

// Codec, parameters and exchange in words, equal exactly when the exchanges are: what ranks compare.
std::string RowText(const PlanRow& row);

struct Plan {
  uint32_t version = 0;
  uint64_t activation_step = 0;  // first step that runs under this plan
  std::vector<PlanRow> rows;     // rows[i].tensor == i

  friend bool operator==(const Plan&, const Plan&) = default;
};

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_PLAN_H_
