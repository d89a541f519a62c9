// SPDX-License-Identifier: Apache-2.0
//
// A trace of what a rank did when: one JSON file for each rank, in the Trace Event Format that
// chrome://tracing and Perfetto show (docs/benchmarks.md has the events). Times are of the machine's
// monotonic clock, so those of ranks on one machine fit together.
//
// One owner, one thread. Events are kept in memory, the last kMost of them, and written when the trace ends.
#ifndef TERSE_RUNTIME_ENGINE_TRACE_H_
#define TERSE_RUNTIME_ENGINE_TRACE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/stopwatch.h"

namespace terse::engine {

class Trace {
 public:
  struct Event {
    const char* name = "";  // a literal
    TimeSource::Point begin;
    TimeSource::Point end;
    std::chrono::nanoseconds processor{0};  // time the thread has had on a processor between the two
    const char* value_name = nullptr;       // what `value` is, a literal; null: nothing
    uint64_t value = 0;
  };

  // Makes `directory` and the rank's file in it. FAILED_PRECONDITION: the system's refusal.
  static absl::StatusOr<std::unique_ptr<Trace>> Open(const std::string& directory, int rank);

  void Add(const Event& event);

  // Of the calling thread.
  static std::chrono::nanoseconds ProcessorTime();

  // FAILED_PRECONDITION: the system's refusal.
  absl::Status Write() const;

 private:
  static constexpr size_t kMost = size_t{1} << 18;

  Trace(std::string path, int rank) : path_(std::move(path)), rank_(rank) {}

  std::string path_;
  int rank_;
  std::vector<Event> events_;  // a ring, once it is full
  size_t next_ = 0;
};

// By what work is timed, and where it is noted; no trace: nowhere. Neither is owned.
struct Tracing {
  Trace* trace = nullptr;
  const TimeSource* time = &TimeSource::Machine();
};

// Times one piece of work: its milliseconds are added to a total, and a trace, if there is one, gets an
// event.
class Timed {
 public:
  Timed(const Tracing& tracing, const char* name, double* total_ms)
      : trace_(tracing.trace), time_(*tracing.time), total_ms_(total_ms) {
    event_.name = name;
    event_.begin = time_.Now();
    if (trace_ != nullptr) event_.processor = -Trace::ProcessorTime();
  }
  ~Timed() { Stop(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

  // A number that belongs to the event.
  void SetValue(const char* name, uint64_t value) {
    event_.value_name = name;
    event_.value = value;
  }
  void Stop() {
    if (total_ms_ == nullptr) return;
    event_.end = time_.Now();
    *total_ms_ += std::chrono::duration<double, std::milli>(event_.end - event_.begin).count();
    total_ms_ = nullptr;
    if (trace_ == nullptr) return;
    event_.processor += Trace::ProcessorTime();
    trace_->Add(event_);
  }

 private:
  Trace* trace_;
  const TimeSource& time_;
  double* total_ms_;
  Trace::Event event_;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_TRACE_H_
