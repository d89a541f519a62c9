// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/exchange/units.h"

#include <algorithm>

#include "proto/wire/frame.h"
#include "proto/wire/messages.h"

namespace terse::engine {

Units::Units(absl::Span<const UnitItem> items, int ranks) : ranks_(static_cast<size_t>(ranks)) {
  std::vector<size_t> last_unit(items.size(), 0);
  std::vector<size_t> filled(ranks_, 0);  // of the unit under way
  const auto end_unit = [&] {
    const size_t first = units_.empty() ? 0 : units_.back().end;
    if (first == parts_.size()) return;
    units_.push_back({first, parts_.size()});
    capacity_.insert(capacity_.end(), filled.begin(), filled.end());
    std::fill(filled.begin(), filled.end(), 0);
  };
  for (size_t i = 0; i < items.size(); ++i) {
    const Tensor& tensor = *items[i].tensor;
    const wire::CodecParams& params = *items[i].params;
    const size_t pieces = tensor.Pieces(params, ranks);
    const size_t closing = tensor.LateBytes(params, ranks);
    for (size_t k = 0; k < pieces; ++k) {
      const bool last = k + 1 == pieces;
      std::vector<size_t> part(ranks_);
      for (size_t r = 0; r < ranks_; ++r) {
        const Shard piece = tensor.PieceOf(params, static_cast<int>(r), ranks, k);
        part[r] = wire::kFrameHeaderBytes + tensor.codec->MaxPayloadBytes(params, piece.end - piece.begin);
        if (last && closing > 0) part[r] += wire::kFrameHeaderBytes + closing;
      }
      if (filled[0] + part[0] > wire::kMostMessageBytes) end_unit();
      parts_.push_back({i, k, last});
      for (size_t r = 0; r < ranks_; ++r) filled[r] += part[r];
      last_unit[i] = units_.size();
    }
  }
  end_unit();
  for (size_t u = 0; u < units_.size(); ++u) {
    size_t needs = u;
    for (const Part& part : PartsOf(u)) {
      const UnitItem& item = items[part.item];
      if (item.tensor->LateBytes(*item.params, ranks) > 0) needs = std::max(needs, last_unit[part.item]);
    }
    needs_.push_back(needs);
  }
}

}  // namespace terse::engine
