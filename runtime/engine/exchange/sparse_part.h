// SPDX-License-Identifier: Apache-2.0
//
// One tensor's memory in a sparse-reduce exchange. The runner keeps it from step to step, so that nothing is
// allocated once the sizes have settled; its content belongs to the exchange under way.
#ifndef TERSE_RUNTIME_ENGINE_EXCHANGE_SPARSE_PART_H_
#define TERSE_RUNTIME_ENGINE_EXCHANGE_SPARSE_PART_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/engine/exchange/entries.h"
#include "runtime/engine/exchange/sparse_split.h"
#include "runtime/engine/position_set.h"

namespace terse::engine {

struct SparsePart {
  size_t k = 0;  // the most entries that a rank selects
  Entries own;   // what this rank selected; in the end, of that what was accepted
  std::vector<Region> regions;
  size_t entry_bytes = 0;    // that went to other owners, without headers
  std::vector<size_t> most;  // entries that each rank can have in the own region
  Entries sums;              // of the own region, positions counted from its begin
  Entries accepted;          // of all regions

  // Work.
  std::vector<std::vector<uint32_t>> samples;
  std::vector<Load> loads;
  Entries received;  // of all ranks, one after the other
  std::vector<size_t> ends;
  PositionSet set;
  std::vector<uint32_t> relative;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_SPARSE_PART_H_
