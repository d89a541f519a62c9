// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/exchange/entries.h"

#include "absl/strings/str_cat.h"

namespace terse::engine {

void Correct(const Entries& told, const Entries& selected, Entries* rest, Entries* taken_back) {
  rest->Resize(0);
  taken_back->Resize(0);
  size_t t = 0;
  for (size_t s = 0; s < selected.size(); ++s) {
    const uint32_t position = selected.positions[s];
    for (; t < told.size() && told.positions[t] < position; ++t) {
      taken_back->Append(told.positions[t], told.values[t]);
    }
    if (t < told.size() && told.positions[t] == position) {
      ++t;
    } else {
      rest->Append(position, selected.values[s]);
    }
  }
  for (; t < told.size(); ++t) taken_back->Append(told.positions[t], told.values[t]);
}

absl::Status Corrected(const Entries& told, const Entries& rest, const Entries& taken_back,
                       Entries* selected) {
  selected->Resize(0);
  size_t r = 0;
  size_t b = 0;
  for (size_t t = 0; t < told.size(); ++t) {
    const uint32_t position = told.positions[t];
    for (; r < rest.size() && rest.positions[r] < position; ++r) {
      selected->Append(rest.positions[r], rest.values[r]);
    }
    if (r < rest.size() && rest.positions[r] == position) {
      return absl::DataLossError(absl::StrCat("the entry at ", position, " is told twice"));
    }
    if (b < taken_back.size() && taken_back.positions[b] == position) {
      ++b;
    } else {
      selected->Append(position, told.values[t]);
    }
  }
  for (; r < rest.size(); ++r) selected->Append(rest.positions[r], rest.values[r]);
  // Positions ascend, so one that was not told stops all that come after it.
  if (b < taken_back.size()) {
    return absl::DataLossError(
        absl::StrCat("the entry at ", taken_back.positions[b], " is taken back and was not told"));
  }
  return absl::OkStatus();
}

}  // namespace terse::engine
