// SPDX-License-Identifier: Apache-2.0
//
// How a rank that has nothing else to do looks for messages of which any may come first.
#ifndef TERSE_RUNTIME_ENGINE_EXCHANGE_LOOK_H_
#define TERSE_RUNTIME_ENGINE_EXCHANGE_LOOK_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/engine/stopwatch.h"
#include "transport/transport.h"

namespace terse::engine {

// Until come(), an absl::StatusOr<bool>, says that something has; false when nothing has for half of
// `patience`. What then follows is a wait for the message that is due, which says from whom. It has all of
// the patience: parts of a message, which start the patience anew, are seen by it only.
//
// The receive of the last message is tested too: a rank that is gone will not send it, and another that saw
// this and stopped is not to blame.
template <typename Come>
absl::StatusOr<bool> LookFor(std::chrono::milliseconds patience, transport::Operation& last,
                             const Come& come) {
  // Between looks the processor is handed over, and after this long given up: where ranks share processors,
  // one that only yields keeps a core while two that have work share another.
  constexpr double kYieldMs = 0.05;
  constexpr std::chrono::microseconds kNap(50);
  constexpr double kSlowMs = 1000.0;
  constexpr std::chrono::microseconds kLongNap(200);
  const double ms = static_cast<double>(patience.count()) / 2;
  const Stopwatch watch;
  for (;;) {
    const absl::StatusOr<bool> something = come();
    if (!something.ok() || *something) return something;
    if (absl::Status status = last.Test().status(); !status.ok()) return status;
    const double waited = watch.Milliseconds();
    if (waited >= ms) return false;
    if (waited < kYieldMs) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(waited < kSlowMs ? kNap : kLongNap);
    }
  }
}

// Goes past the operations that have ended, from the `*ended`-th on up to the first that has not. Asks the
// transport for progress: it may have no thread of its own.
inline absl::Status PassEnded(absl::Span<const std::unique_ptr<transport::Operation>> operations,
                              size_t* ended) {
  for (; *ended < operations.size(); ++*ended) {
    const absl::StatusOr<bool> this_one = operations[*ended]->Test();
    if (!this_one.ok()) return this_one.status();
    if (!*this_one) break;
  }
  return absl::OkStatus();
}

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_EXCHANGE_LOOK_H_
