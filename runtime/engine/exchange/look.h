// SPDX-License-Identifier: Apache-2.0
//
// How a rank that has nothing else to do looks for messages of which any may come first.
#ifndef TERSE_RUNTIME_ENGINE_EXCHANGE_LOOK_H_
#define TERSE_RUNTIME_ENGINE_EXCHANGE_LOOK_H_

#include <chrono>
#include <thread>

#include "absl/status/statusor.h"
#include "runtime/engine/stopwatch.h"

namespace terse::engine {

// Until come(), an absl::StatusOr<bool>, says that something has; false when nothing has for `ms`.
template <typename Come>
absl::StatusOr<bool> LookFor(double ms, const Come& come) {
  // Between looks the processor is handed over, and after this long given up: where ranks share processors,
  // one that only yields keeps a core while two that have work share another.
  constexpr double kYieldMs = 0.05;
  constexpr std::chrono::microseconds kNap(50);
  const Stopwatch watch;
  do {
    const absl::StatusOr<bool> something = come();
    if (!something.ok() || *something) return something;
    if (watch.Milliseconds() < kYieldMs) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kNap);
    }
  } while (watch.Milliseconds() < ms);
  return false;
}

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_LOOK_H_
