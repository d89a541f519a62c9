// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/trace.h"

#include <time.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace terse::engine {
namespace {

double Microseconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

absl::Status Refused(const std::string& path, const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("trace: '", path, "' cannot be written: ", why, "; set trace to a folder that can be"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trace>> Trace::Open(const std::string& directory, int rank) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return Refused(directory, error.message());
  std::unique_ptr<Trace> trace(new Trace(absl::StrCat(directory, "/rank-", rank, ".json"), rank));
  // Better known at once than when the job has ended.
  if (absl::Status status = trace->Write(); !status.ok()) return status;
  return trace;
}

std::chrono::nanoseconds Trace::ProcessorTime() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

void Trace::Add(const Event& event) {
  if (events_.size() < kMost) {
    events_.push_back(event);
  } else {
    events_[next_] = event;
    next_ = (next_ + 1) % kMost;
  }
}

absl::Status Trace::Write() const {
  std::ofstream file(path_, std::ios::trunc);
  file << "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  for (size_t i = 0; i < events_.size(); ++i) {
    const Event& event = events_[(next_ + i) % events_.size()];
    file << absl::StrFormat(
        R"(%s{"name": "%s", "ph": "X", "pid": %d, "tid": 0, "ts": %.3f, "dur": %.3f, "tdur": %.3f)",
        i == 0 ? "\n" : ",\n", event.name, rank_, Microseconds(event.begin.time_since_epoch()),
        Microseconds(event.end - event.begin), Microseconds(event.processor));
    if (event.value_name != nullptr) {
      file << absl::StrFormat(R"(, "args": {"%s": %d})", event.value_name, event.value);
    }
    file << "}";
  }
  file << "\n]}\n";
  file.close();
  if (!file) return Refused(path_, std::strerror(errno));
  return absl::OkStatus();
}

}  // namespace terse::engine
