// SPDX-License-Identifier: Apache-2.0
//
// A link for tests whose time is told and not measured: each operation that a rank sends in takes the link's
// latency and a time for each byte, by a clock that nothing else moves. Kernels take no time.
#ifndef TERSE_TESTS_ENGINE_PRICED_GROUP_H_
#define TERSE_TESTS_ENGINE_PRICED_GROUP_H_

#include <chrono>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "runtime/engine/stopwatch.h"
#include "tests/engine/passing_group.h"

namespace terse::engine {

// One rank's link and clock, used by the rank's thread alone.
class PricedLink final : public TimeSource {
 public:
  double latency_ms = 0;
  double ms_per_byte = 0;
  bool one_machine = false;  // set before the group is opened

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

// Each rank on a machine of its own, or, where the link says so, all on one.
class PricedGroup final : public transport::PassingGroup {
 public:
  PricedGroup(std::unique_ptr<transport::Group> group, PricedLink* link)
      : PassingGroup(std::move(group)), nodes_(static_cast<size_t>(size()), 0), link_(*link) {
    if (!link->one_machine) std::iota(nodes_.begin(), nodes_.end(), 0);
  }

  absl::Span<const int> nodes() const override { return nodes_; }

 private:
  absl::Status BeforeStart(size_t bytes) override {
    link_.Send(bytes);
    return absl::OkStatus();
  }

  std::vector<int> nodes_;
  PricedLink& link_;
};

}  // namespace terse::engine

#endif  // TERSE_TESTS_ENGINE_PRICED_GROUP_H_
