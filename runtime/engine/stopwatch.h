// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_RUNTIME_ENGINE_STOPWATCH_H_
#define TERSE_RUNTIME_ENGINE_STOPWATCH_H_

#include <chrono>

namespace terse::engine {

// Where an engine's times come from: the machine's monotonic clock, or what a test says. Read by the thread
// that uses the engine.
class TimeSource {
 public:
  using Point = std::chrono::steady_clock::time_point;

  virtual ~TimeSource() = default;
  virtual Point Now() const { return std::chrono::steady_clock::now(); }

  static const TimeSource& Machine() {
    static const auto& machine = *new TimeSource;
    return machine;
  }
};

// Time since construction.
class Stopwatch {
 public:
  explicit Stopwatch(const TimeSource& source = TimeSource::Machine()) : source_(source) {}

  double Milliseconds() const {
    return std::chrono::duration<double, std::milli>(source_.Now() - start_).count();
  }

 private:
  const TimeSource& source_;
  TimeSource::Point start_ = source_.Now();
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_STOPWATCH_H_
