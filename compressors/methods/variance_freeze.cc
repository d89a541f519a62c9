// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/variance_freeze.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace terse {
namespace {

constexpr double kLeastRatio = 0.96;

}  // namespace

uint64_t VarianceFreeze::Memory(const wire::Config::Adam& config) {
  return static_cast<uint64_t>(std::max(1.0, std::round(1.0 / (1.0 - config.beta2))));
}

VarianceFreeze::VarianceFreeze(const wire::Config::Adam& config)
    : config_(config), distance_(Memory(config)) {}

void VarianceFreeze::Restore(State state) {
  state_ = std::move(state);
  const bool follows = config_.freeze == wire::Config::Adam::kAuto && !state_.frozen;
  const uint64_t expected = follows ? std::min(state_.warmup_steps, distance_) : 0;
  if (state_.history.size() == expected) return;
  state_.history = {};
  if (follows) state_.warmup_steps = 0;
}

bool VarianceFreeze::Settled(double norm) const {
  if (state_.handing_on) return false;
  const uint64_t t = state_.warmup_steps + 1;
  if (config_.freeze != wire::Config::Adam::kAuto) return t >= static_cast<uint64_t>(config_.freeze);
  if (t <= static_cast<uint64_t>(config_.lr_warmup_steps) || state_.history.size() < distance_) return false;
  const double before = state_.history[(t - 1) % distance_];  // of step t - D: this step's place
  // False without any gradient (0) and for sums beyond range.
  return before > 0 && std::isfinite(norm) && norm >= kLeastRatio * before && before >= kLeastRatio * norm;
}

bool VarianceFreeze::Advance(double norm, bool freeze, uint64_t step) {
  if (state_.frozen) return false;
  if (state_.handing_on) {
    state_.handing_on = false;
    return false;
  }
  if (config_.freeze == wire::Config::Adam::kAuto) {
    if (state_.history.size() < distance_) state_.history.push_back(0);
    state_.history[state_.warmup_steps % distance_] = norm;
  }
  ++state_.warmup_steps;
  if (!freeze) return false;
  state_.frozen = true;
  state_.frozen_at = step;
  state_.history = {};
  return true;
}

void VarianceFreeze::Restart() {
  const bool handing_on = state_.frozen || state_.handing_on;
  state_ = {};
  state_.handing_on = handing_on;
}

}  // namespace terse
