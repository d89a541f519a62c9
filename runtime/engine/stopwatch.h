// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_RUNTIME_ENGINE_STOPWATCH_H_
#define TERSE_RUNTIME_ENGINE_STOPWATCH_H_

#include <chrono>

namespace terse::engine {

// Time since construction, for the report. Nothing is decided from it.
class Stopwatch {
 public:
  double Milliseconds() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_STOPWATCH_H_
