// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/plan.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/wire/text.h"

namespace terse::wire {

double QuantizeErrorGain(const CodecParams& params) {
  const double units = params.rounding == Rounding::kNearest ? 0.5 : 1.0;
  const double side_levels = std::ldexp(1.0, static_cast<int>(params.bits) - 1) - 1;
  switch (params.span) {
    case QuantizeSpan::kMinMax:
      return 2 * units / (2 * side_levels + 1);
    case QuantizeSpan::kMax:
      return units / side_levels;
    case QuantizeSpan::kL2:
      return units * std::sqrt(params.block) / side_levels;
  }
  return 0.0;
}

std::string RowText(const PlanRow& row) {
  const CodecParams& p = row.params;
  return absl::StrCat(View(Name(row.codec)), " by ", View(Name(row.exchange)), ", density ", p.density,
                      ", index ", static_cast<int>(p.index), ", selection ", static_cast<int>(p.selection),
                      ", values ", static_cast<int>(p.values), ", bits ", p.bits, ", block ", p.block,
                      ", rounding ", static_cast<int>(p.rounding), ", span ", static_cast<int>(p.span),
                      ", scale ", static_cast<int>(p.scale), ", rank ", p.rank, ", error ",
                      static_cast<int>(p.error), ", error feedback ", static_cast<int>(row.error_feedback));
}

}  // namespace terse::wire
