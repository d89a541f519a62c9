// SPDX-License-Identifier: Apache-2.0
//
// More than one processor for a codec's work on one vector. Codecs start no threads and know of none: who
// calls them may lend the workers of its thread for a while (ScopedWorkers), and loops over long vectors are
// divided among these. What comes out never depends on it: bytes, residuals and sums are the same for any
// number of workers, because a range's work is independent of where ranges are cut, and what is not (sums,
// the order of candidates) is put together in the order of the elements. docs/decisions/0019.
#ifndef TERSE_COMPRESSORS_WORKERS_H_
#define TERSE_COMPRESSORS_WORKERS_H_

#include <cstddef>

#include "absl/functional/function_ref.h"

namespace terse {

class Workers {
 public:
  virtual ~Workers() = default;

  // Threads, the caller's among them; at least 1.
  virtual size_t count() const = 0;

  // Calls task(0) to task(tasks - 1), once each, in any order and at the same time, and returns when all have
  // returned: what they wrote is visible then. Tasks do not call Run.
  virtual void Run(size_t tasks, absl::FunctionRef<void(size_t)> task) = 0;
};

// Lends workers (or none: null) to the calling thread for this object's life.
class ScopedWorkers {
 public:
  explicit ScopedWorkers(Workers* workers);
  ~ScopedWorkers();
  ScopedWorkers(const ScopedWorkers&) = delete;
  ScopedWorkers& operator=(const ScopedWorkers&) = delete;

 private:
  Workers* const previous_;
};

// Vectors of fewer elements are not worth waking a thread for, which takes some 30 us (performance.md,
// section 6).
inline constexpr size_t kThreadedElements = size_t{1} << 18;

inline constexpr size_t kMostWorkers = 256;  // that work on one vector

// Into how many ranges work over n elements is best divided on this thread: 1 without workers and for short
// vectors.
size_t WorkersFor(size_t n);

// Calls range(begin, end) for ranges that cover [0, n), whose cuts are multiples of `align`: one range
// without workers and for short vectors.
void ForRanges(size_t n, size_t align, absl::FunctionRef<void(size_t begin, size_t end)> range);

// Calls task(0) to task(tasks - 1) on this thread's workers, or one after the other.
void ForTasks(size_t tasks, absl::FunctionRef<void(size_t)> task);

}  // namespace terse

#endif  // TERSE_COMPRESSORS_WORKERS_H_
