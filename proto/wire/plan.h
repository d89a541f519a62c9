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
// What the levels of a block reach over: from its least to its greatest element, or as far to both sides of
// zero as its greatest magnitude or its L2 norm.
enum class QuantizeSpan : uint8_t { kMinMax = 0, kMax = 1, kL2 = 2 };
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
  uint32_t block = 512;                             // quantize: elements that share a unit;
                                                    // onebit: elements that share a scale, 0: the tensor
  Rounding rounding = Rounding::kNearest;           // quantize
  QuantizeSpan span = QuantizeSpan::kMinMax;        // quantize
  ScaleNorm scale = ScaleNorm::kL2;                 // onebit
  uint32_t rank = 4;                                // powersgd: columns of a factor, 1 to 1024
  LowRankError error = LowRankError::kLocal;        // powersgd

  friend bool operator==(const CodecParams&, const CodecParams&) = default;
};

// How much of a block one step of quantize may leave behind, at worst, as a multiple of what it encoded: of
// its range (minmax), its greatest magnitude (max) or its L2 norm (l2). Above 1 a residual that is fed back
// may grow without end. With s = 2^(bits - 1) - 1 the error of an element is at most a unit, range / (2^bits
// - 1), magnitude / s or norm / s; half of it to nearest.
double QuantizeErrorGain(const CodecParams& params);

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
