// SPDX-License-Identifier: Apache-2.0
//
// The plans of a job as a text: what rank 0 writes down (`policy.record`), a controller hands out, and
// `policy.name: replay` repeats. After the first line, "terse-plans 1", for each plan
//
//   plan VERSION STEP        it is in force after so many applied steps
//   SETTING NAME             of each tensor that it changes (policy/setting.h); the name goes to the end of
//   the line
//
// A text that ends in the middle of a plan, as one of a job that was killed may, is good without that plan:
// each plan ends with the line "end".
#ifndef TERSE_PROTO_WIRE_PLAN_HISTORY_H_
#define TERSE_PROTO_WIRE_PLAN_HISTORY_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace terse::wire {

struct PastPlan {
  uint32_t version = 0;
  uint64_t step = 0;
  struct Change {
    std::string tensor;
    std::string setting;
    friend bool operator==(const Change&, const Change&) = default;
  };
  std::vector<Change> changes;

  friend bool operator==(const PastPlan&, const PastPlan&) = default;
};

inline constexpr std::string_view kPlanHistoryHead = "terse-plans 1\n";

// The lines of one plan, "end" included.
std::string PlanHistoryText(const PastPlan& plan);

// The plans of a whole text, by step. INVALID_ARGUMENT names the line.
absl::StatusOr<std::map<uint64_t, PastPlan>> ParsePlanHistory(std::string_view text);

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_PLAN_HISTORY_H_
