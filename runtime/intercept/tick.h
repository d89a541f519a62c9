// SPDX-License-Identifier: Apache-2.0
//
// A clock that can be read twice in each call that passes through: the processor's counter, a few
// nanoseconds where the system's clock can take a hundred. Its unit is found out by comparing the two over
// the life of the process, so it is known when a report is written, not before.
#ifndef TERSE_RUNTIME_INTERCEPT_TICK_H_
#define TERSE_RUNTIME_INTERCEPT_TICK_H_

#include <chrono>
#include <cstdint>

namespace terse::intercept {

inline int64_t Now() {
#if defined(__x86_64__)
  return static_cast<int64_t>(__builtin_ia32_rdtsc());
#elif defined(__aarch64__)
  int64_t ticks;
  asm volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
#endif
}

// Begins to compare when it is made.
class TickRate {
 public:
  TickRate() : ticks_(Now()), time_(std::chrono::steady_clock::now()) {}

  double SecondsPerTick() const {
    const int64_t ticks = Now() - ticks_;
    return ticks > 0 ? Seconds() / static_cast<double>(ticks) : 1e-9;
  }
  // Since it was made.
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - time_).count();
  }

 private:
  int64_t ticks_;
  std::chrono::steady_clock::time_point time_;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_TICK_H_
