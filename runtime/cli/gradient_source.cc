// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/gradient_source.h"

#include <algorithm>
#include <cmath>

namespace terse::cli {
namespace {

constexpr size_t kLayerElements = 1 << 16;

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t state) : state_(state) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Uniform in (0, 1), never an end.
  static float Unit(uint64_t bits) { return (static_cast<float>(bits >> 41) + 0.5f) * 0x1p-23f; }

 private:
  uint64_t state_;
};

uint64_t Mix(uint64_t a, uint64_t b) { return SplitMix64(a ^ SplitMix64(b).Next()).Next(); }

float LayerScale(uint64_t seed, size_t layer) {
  SplitMix64 random(Mix(seed, layer + 1));
  const float radius = std::sqrt(-2.0f * std::log(SplitMix64::Unit(random.Next())));
  return std::exp(radius * std::cos(6.2831853f * SplitMix64::Unit(random.Next())));
}

}  // namespace

void GradientSource::Fill(uint64_t repetition, float* gradient, size_t n) const {
  SplitMix64 random(Mix(Mix(seed_, rank_), ~repetition));
  for (size_t begin = 0; begin < n; begin += kLayerElements) {
    const size_t end = std::min(begin + kLayerElements, n);
    const float scale = LayerScale(seed_, begin / kLayerElements);
    for (size_t i = begin; i < end; ++i) {
      const uint64_t bits = random.Next();
      const float magnitude = -scale * std::log(SplitMix64::Unit(bits));
      gradient[i] = (bits & 1) != 0 ? -magnitude : magnitude;
    }
  }
}

}  // namespace terse::cli
