// SPDX-License-Identifier: Apache-2.0
#include "compressors/workers.h"

#include <algorithm>
#include <numeric>

namespace terse {
namespace {

thread_local Workers* current = nullptr;

// Ranges of a thread: more than one, so that a thread that lost its processor holds up less.
constexpr size_t kRangesEach = 4;
// Ranges begin at multiples of so many elements, 64 KiB: no line or small page belongs to two.
constexpr size_t kRangeAlign = size_t{1} << 14;

}  // namespace

ScopedWorkers::ScopedWorkers(Workers* workers) : previous_(current) { current = workers; }
ScopedWorkers::~ScopedWorkers() { current = previous_; }

size_t WorkersFor(size_t n) {
  return current == nullptr || n < kThreadedElements ? 1 : std::min(current->count(), kMostWorkers);
}

void ForRanges(size_t n, size_t align, absl::FunctionRef<void(size_t begin, size_t end)> range) {
  const size_t threads = WorkersFor(n);
  if (threads == 1) {
    range(0, n);
    return;
  }
  const size_t unit = std::lcm(align, kRangeAlign);
  const size_t units = (n + unit - 1) / unit;
  const size_t each = (units + threads * kRangesEach - 1) / (threads * kRangesEach) * unit;
  current->Run((n + each - 1) / each,
               [&](size_t task) { range(task * each, std::min(n, (task + 1) * each)); });
}

void ForTasks(size_t tasks, absl::FunctionRef<void(size_t)> task) {
  if (current != nullptr && tasks > 1) {
    current->Run(tasks, task);
    return;
  }
  for (size_t i = 0; i < tasks; ++i) task(i);
}

}  // namespace terse
