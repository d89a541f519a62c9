// SPDX-License-Identifier: Apache-2.0
//
// How a batch is cut for a pipelined exchange. Each rank's shard of a tensor is cut into pieces; piece k of
// all ranks' shards is a part, and parts that follow each other make up a unit, whose frames for one rank
// travel in one message (wire::kMostMessageBytes). A large tensor has many units, so that its first elements
// are on the wire while the last are encoded; many small tensors share one. A function of tensors, parameters
// and world size alone, so all ranks cut alike.
#ifndef TERSE_RUNTIME_ENGINE_EXCHANGE_UNITS_H_
#define TERSE_RUNTIME_ENGINE_EXCHANGE_UNITS_H_

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "proto/wire/plan.h"
#include "runtime/engine/tensor.h"

namespace terse::engine {

// Piece `piece` of every rank's shard of item `item`.
struct Part {
  size_t item = 0;
  size_t piece = 0;
  bool last = false;  // of its item
};

// Parts [first, end) of the batch.
struct Unit {
  size_t first = 0;
  size_t end = 0;
};

struct UnitItem {
  const Tensor* tensor = nullptr;
  const wire::CodecParams* params = nullptr;
};

class Units {
 public:
  Units(absl::Span<const UnitItem> items, int ranks);

  size_t size() const { return units_.size(); }
  size_t parts() const { return parts_.size(); }
  absl::Span<const Part> PartsOf(size_t unit) const {
    return absl::MakeConstSpan(parts_).subspan(units_[unit].first, units_[unit].end - units_[unit].first);
  }
  size_t FirstPart(size_t unit) const { return units_[unit].first; }

  // The greatest size of a message with rank r's pieces of the unit: frames, and what closes their tensors.
  size_t Capacity(size_t unit, int r) const { return capacity_[unit * ranks_ + static_cast<size_t>(r)]; }

  // The last unit that must have come before this one can be decoded: a tensor whose encoding is closed by
  // its last part waits for that.
  size_t Needs(size_t unit) const { return needs_[unit]; }

 private:
  size_t ranks_;
  std::vector<Part> parts_;
  std::vector<Unit> units_;
  std::vector<size_t> capacity_;
  std::vector<size_t> needs_;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_UNITS_H_
