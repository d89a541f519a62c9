// SPDX-License-Identifier: Apache-2.0
//
// Entries of a sparse vector, and what a rank tells of its entries early.
//
// While a rank still looks for the largest elements of a large tensor, it tells the others those of which it
// is almost sure. In the end it says the rest, and what of the told it takes back. So what arrives is what
// was selected, whatever was told when.
#ifndef TERSE_RUNTIME_ENGINE_EXCHANGE_ENTRIES_H_
#define TERSE_RUNTIME_ENGINE_EXCHANGE_ENTRIES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace terse::engine {

struct Entries {
  std::vector<uint32_t> positions;  // ascending
  std::vector<float> values;

  size_t size() const { return positions.size(); }
  void Resize(size_t n) {
    positions.resize(n);
    values.resize(n);
  }
  void Append(uint32_t position, float value) {
    positions.push_back(position);
    values.push_back(value);
  }
};

// Work of one tensor's exchange, kept from step to step so that nothing is allocated once sizes have settled.
struct GatherMemory {
  Entries told;  // early, of all stretches
  Entries part;  // of the stretch that is being encoded
  Entries selected;
  Entries rest;
  Entries taken_back;
};

// What has to be said after `told`, so that the others know `selected`.
void Correct(const Entries& told, const Entries& selected, Entries* rest, Entries* taken_back);

// What was selected: `told` without `taken_back`, and `rest`. DATA_LOSS for what Correct does not give: taken
// back what was not told, a rest that was.
absl::Status Corrected(const Entries& told, const Entries& rest, const Entries& taken_back,
                       Entries* selected);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_ENTRIES_H_
