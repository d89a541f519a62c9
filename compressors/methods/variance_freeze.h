// SPDX-License-Identifier: Apache-2.0
//
// When 1-bit Adam's warm-up ends: one decision for all tensors of a group. With `adam.freeze` a number, after
// that many applied steps. With `auto`, after the first applied step t of the warm-up with
//
//   t > max(adam.lr_warmup_steps, D)   and   0.96 <= |v^_t| / |v^_(t-D)| <= 1 / 0.96,   D = 1 / (1 - beta2)
//
// where |v^_t| is the sum over the tensors to be frozen of |v_t|_1 / (1 - beta2^k), k counting the updates of
// the tensor's v. The 1-bit Adam paper's threshold and distance; but v without the correction grows from
// zero, so its ratio passes any test that looks only downwards, whatever the gradients do. Hence the
// correction and the second bound. (docs/decisions/0011)
//
// A pure state machine: no ranks, no clock. The engine makes the ranks agree. Not thread-safe.
#ifndef TERSE_COMPRESSORS_METHODS_VARIANCE_FREEZE_H_
#define TERSE_COMPRESSORS_METHODS_VARIANCE_FREEZE_H_

#include <cstdint>
#include <vector>

#include "proto/wire/config.h"

namespace terse {

class VarianceFreeze {
 public:
  // Everything it remembers, for saving and reports.
  struct State {
    bool frozen = false;
    bool handing_on = false;      // the next applied step comes before the warm-up (Restart)
    uint64_t warmup_steps = 0;    // applied steps of the warm-up under way, or of the last one
    uint64_t frozen_at = 0;       // applied steps of the group before the last freeze
    std::vector<double> history;  // auto: |v^| after step k of the warm-up, at (k - 1) mod D
    friend bool operator==(const State&, const State&) = default;
  };

  explicit VarianceFreeze(const wire::Config::Adam& config);

  bool frozen() const { return state_.frozen; }
  const State& state() const { return state_; }
  // A history that is not one of this configuration is forgotten, and the warm-up counted anew.
  void Restore(State state);

  // Whether the warm-up is over if the step that is ending is applied and leaves |v^| = norm.
  bool Settled(double norm) const;

  // A step of the warm-up was applied, the group's `step`-th; `freeze` is what the ranks agreed on. Does
  // nothing once frozen. True when the variance is frozen from now on.
  bool Advance(double norm, bool freeze, uint64_t step);

  // Warm up again, from nothing that was seen before. Once frozen, the tensors use the next applied step to
  // hand their errors on, so that the warm-up begins after it.
  void Restart();

  // 1 / (1 - beta2), rounded: the steps over which v remembers.
  static uint64_t Memory(const wire::Config::Adam& config);

 private:
  const wire::Config::Adam config_;
  const uint64_t distance_;
  State state_;
};

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_VARIANCE_FREEZE_H_
