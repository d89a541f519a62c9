// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/plan.h"

#include "absl/strings/str_cat.h"
#include "proto/wire/text.h"

namespace terse::wire {

std::string RowText(const PlanRow& row) {
  const CodecParams& p = row.params;
  return absl::StrCat(View(Name(row.codec)), " by ", View(Name(row.exchange)), ", density ", p.density,
                      ", index ", static_cast<int>(p.index), ", selection ", static_cast<int>(p.selection),
                      ", values ", static_cast<int>(p.values), ", bits ", p.bits, ", block ", p.block,
                      ", rounding ", static_cast<int>(p.rounding), ", scale ", static_cast<int>(p.scale),
                      ", rank ", p.rank, ", error ", static_cast<int>(p.error), ", error feedback ",
                      static_cast<int>(row.error_feedback));
}

}  // namespace terse::wire
