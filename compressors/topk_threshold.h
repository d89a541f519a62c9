// SPDX-License-Identifier: Apache-2.0
//
// What topk keeps of a step for the next one: where its threshold was, and how it moved. For topk.cc alone.
#ifndef TERSE_COMPRESSORS_TOPK_THRESHOLD_H_
#define TERSE_COMPRESSORS_TOPK_THRESHOLD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "proto/wire/bytes.h"

namespace terse::topk {

// A vector's threshold moves little from step to step, and steadily, so a step begins a little below where
// the last ones lead and saves the sample. What is sent no longer waits, so in a residual many elements are
// just below the threshold: of DGC's, 3 % below it there are twice as many.
inline constexpr float kLoosened = 0.97f;
inline constexpr float kMostGrowth = 1.1f;

// An element is almost sure to be selected where it is above what the last steps lead to by this share, and
// by as much as that was too low of late, which is half forgotten with each step.
inline constexpr float kSureMargin = 0.001f;
inline constexpr float kMostMissed = 1.0f;
inline constexpr float kForgotten = 0.5f;

// What is kept from step to step: the least magnitude that was selected, the growth that it showed, how
// many were to be selected, and by what share its guess was too low. Any bytes are good: they only choose
// where the search begins, and what is told early.
class LastThreshold {
 public:
  static constexpr size_t kBytes = sizeof(uint32_t) + 3 * sizeof(float);

  explicit LastThreshold(wire::MutableBytes state) : state_(state) {}

  // Where to begin; 0: nowhere.
  float Guess(size_t k) const {
    const float guess = kLoosened * Growth() * Threshold(k);
    return guess > 0.0f ? guess : 0.0f;
  }
  // From where on elements are almost surely selected; where there is no guess, none are.
  float Sure(size_t k) const {
    const float sure = Growth() * Threshold(k) * (1.0f + kSureMargin + Missed());
    return sure > 0.0f ? sure : std::numeric_limits<float>::infinity();
  }
  void Update(size_t k, float threshold) {
    const float before = Threshold(k);
    const float growth =
        before > 0.0f ? std::clamp(threshold / before, 1.0f / kMostGrowth, kMostGrowth) : 1.0f;
    const float guess = Growth() * before;
    const float missed = guess > 0.0f ? std::clamp(threshold / guess - 1.0f, 0.0f, kMostMissed) : 0.0f;
    const float remembered = std::max(kForgotten * Missed(), missed);
    wire::Store(state_.data(), static_cast<uint32_t>(k));
    wire::Store(state_.data() + 4, threshold);
    wire::Store(state_.data() + 8, growth);
    wire::Store(state_.data() + 12, remembered);
  }

 private:
  float Threshold(size_t k) const {
    return wire::Load<uint32_t>(state_.data()) == k ? wire::Load<float>(state_.data() + 4) : 0.0f;
  }
  float Growth() const { return wire::Load<float>(state_.data() + 8); }
  float Missed() const {
    const float remembered = wire::Load<float>(state_.data() + 12);
    return remembered > 0.0f ? std::min(remembered, kMostMissed) : 0.0f;
  }

  wire::MutableBytes state_;
};

}  // namespace terse::topk

#endif  // TERSE_COMPRESSORS_TOPK_THRESHOLD_H_
