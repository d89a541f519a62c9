// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_COMPRESSORS_EARLY_ENTRIES_H_
#define TERSE_COMPRESSORS_EARLY_ENTRIES_H_

#include <cstddef>
#include <cstdint>

namespace terse {

// Takes entries of which a gather codec is almost sure, while it still looks for the others. The vector is
// looked at stretch by stretch; entries come in ascending order, and after those of a stretch its end. Only
// the payload says what was selected: what was told early may not be in it, and most of what is in it
// may not have been told. A codec that is sure of nothing calls nothing, and one that starts to goes on to
// the end of the vector.
class EarlyEntries {
 public:
  virtual ~EarlyEntries() = default;

  // Elements of a stretch, at least 1; the last one may be shorter.
  virtual size_t stretch() const = 0;
  // The value as it is decoded, never 0.
  virtual void Add(uint32_t position, float value) = 0;
  virtual void EndStretch(size_t end) = 0;
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_EARLY_ENTRIES_H_
