// SPDX-License-Identifier: Apache-2.0
//
// A transport that fails on purpose, for tests: it passes everything on to another group until a given
// collective, which it never starts. Other ranks find this one gone, or silent.
#ifndef TERSE_TESTS_ENGINE_CUT_GROUP_H_
#define TERSE_TESTS_ENGINE_CUT_GROUP_H_

#include <cstdint>
#include <string>

#include "tests/engine/passing_group.h"

namespace terse::transport {

enum class Cut : uint8_t {
  kGone,    // the rank leaves its group, as if its process had died
  kSilent,  // the rank stays and says nothing more
};

class CutGroup final : public PassingGroup {
 public:
  using PassingGroup::PassingGroup;

  // The `at`-th collective from now on, counted from 1, is the one that fails.
  void CutAt(uint64_t at, Cut cut) {
    at_ = calls_ + at;
    cut_ = cut;
  }
  // Collectives so far.
  uint64_t calls() const { return calls_; }

 private:
  absl::Status BeforeStart(size_t /*bytes*/) override {
    if (++calls_ < at_) return absl::OkStatus();
    if (cut_ == Cut::kGone) Leave();
    return absl::UnavailableError("rank " + std::to_string(rank()) + " was cut off");
  }

  uint64_t calls_ = 0;
  uint64_t at_ = UINT64_MAX;
  Cut cut_ = Cut::kGone;
};

}  // namespace terse::transport

#endif  // TERSE_TESTS_ENGINE_CUT_GROUP_H_
