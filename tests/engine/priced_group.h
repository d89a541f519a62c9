// SPDX-License-Identifier: Apache-2.0
//
// A link for tests whose time is told and not measured: each operation that a rank sends in takes the link's
// latency and a time for each byte, by a clock that nothing else moves. Kernels take no time.
#ifndef TERSE_TESTS_ENGINE_PRICED_GROUP_H_
#define TERSE_TESTS_ENGINE_PRICED_GROUP_H_

#include <chrono>
#include <memory>
#include <utility>

#include "runtime/engine/stopwatch.h"
#include "tests/engine/passing_group.h"

namespace terse::engine {

// One rank's link and clock, used by the rank's thread alone.
class PricedLink final : public TimeSource {
 public:
  double latency_ms = 0;
  double ms_per_byte = 0;

  Point Now() const override { return now_; }
  void Send(size_t bytes) {
    if (bytes == 0) return;
    const std::chrono::duration<double, std::milli> took(latency_ms +
                                                         ms_per_byte * static_cast<double>(bytes));
    now_ += std::chrono::duration_cast<Point::duration>(took);
  }

 private:
  Point now_{};
};

class PricedGroup final : public transport::PassingGroup {
 public:
  PricedGroup(std::unique_ptr<transport::Group> group, PricedLink* link)
      : PassingGroup(std::move(group)), link_(*link) {}

 private:
  absl::Status BeforeStart(size_t bytes) override {
    link_.Send(bytes);
    return absl::OkStatus();
  }

  PricedLink& link_;
};

}  // namespace terse::engine

#endif  // TERSE_TESTS_ENGINE_PRICED_GROUP_H_
