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

namespace terse::engine {

class Trace {
 public:
  using Clock = std::chrono::steady_clock;

  struct Event {
    const char* name = "";  // a literal
    Clock::time_point begin;
    Clock::time_point end;
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

// Times one piece of work: its milliseconds are added to a total, and a trace, if there is one, gets an
// event.
class Timed {
 public:
  Timed(Trace* trace, const char* name, double* total_ms) : trace_(trace), total_ms_(total_ms) {
    event_.name = name;
    event_.begin = Trace::Clock::now();
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
    event_.end = Trace::Clock::now();
    *total_ms_ += std::chrono::duration<double, std::milli>(event_.end - event_.begin).count();
    total_ms_ = nullptr;
    if (trace_ == nullptr) return;
    event_.processor += Trace::ProcessorTime();
    trace_->Add(event_);
  }

 private:
  Trace* trace_;
  double* total_ms_;
  Trace::Event event_;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_TRACE_H_
