// SPDX-License-Identifier: Apache-2.0
//
// Codecs so plain that what they do can be seen at a glance, and random gradients to feed them.
#ifndef TERSE_TESTS_METHODS_CODECS_H_
#define TERSE_TESTS_METHODS_CODECS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "proto/wire/plan.h"

namespace terse {

using Vector = std::vector<float>;

// What one rank sent: its decoded values, and their positions where the codec selects.
struct Payload {
  Vector decoded;
  std::vector<uint32_t> sent;
  bool selects = false;
};

// Encodes c = input + residual and leaves residual = c - decoded.
using TestCodec = std::function<Payload(absl::Span<const float> input, absl::Span<float> residual)>;

inline Vector Compensate(absl::Span<const float> input, absl::Span<const float> residual) {
  Vector c(input.begin(), input.end());
  for (size_t i = 0; i < residual.size(); ++i) c[i] += residual[i];
  return c;
}

// Sends exactly k elements of largest magnitude; of equal ones the first. `sent_as` is what becomes of a
// value on its way.
inline TestCodec TopK(
    size_t k, float (*sent_as)(float) = [](float x) { return x; }) {
  return [k, sent_as](absl::Span<const float> input, absl::Span<float> residual) {
    const Vector c = Compensate(input, residual);
    std::vector<uint32_t> order(c.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return std::fabs(c[a]) > std::fabs(c[b]); });
    order.resize(std::min(k, c.size()));
    std::sort(order.begin(), order.end());
    Payload payload{Vector(c.size()), order, true};
    std::copy(c.begin(), c.end(), residual.begin());
    for (const uint32_t i : order) {
      payload.decoded[i] = sent_as(c[i]);
      residual[i] = c[i] - payload.decoded[i];
    }
    return payload;
  };
}

// One bit an element: its sign (sgn(0) = +1) times a scale shared by `block` elements (0: all), which is
// their root mean square or, for L1, their mean magnitude.
struct OneBitRule {
  wire::ScaleNorm norm = wire::ScaleNorm::kL2;
  size_t block = 0;
};

inline float L2Scale(absl::Span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return values.empty() ? 0.0f : static_cast<float>(std::sqrt(sum / static_cast<double>(values.size())));
}
inline float L1Scale(absl::Span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += std::fabs(value);
  return values.empty() ? 0.0f : static_cast<float>(sum / static_cast<double>(values.size()));
}
inline Vector OneBitOf(absl::Span<const float> values, const OneBitRule& rule = {}) {
  Vector out;
  const size_t block = rule.block == 0 ? values.size() : rule.block;
  for (size_t begin = 0; begin < values.size(); begin += block) {
    const absl::Span<const float> part = values.subspan(begin, block);
    const float scale = rule.norm == wire::ScaleNorm::kL2 ? L2Scale(part) : L1Scale(part);
    for (const float value : part) out.push_back(value >= 0 ? scale : -scale);
  }
  return out;
}
inline TestCodec OneBit(const OneBitRule& rule = {}) {
  return [rule](absl::Span<const float> input, absl::Span<float> residual) {
    const Vector c = Compensate(input, residual);
    Payload payload{OneBitOf(c, rule), {}, false};
    for (size_t i = 0; i < residual.size(); ++i) residual[i] = c[i] - payload.decoded[i];
    return payload;
  };
}

// Sends everything as it is: what an exchange without loss would be.
inline TestCodec Lossless() {
  return [](absl::Span<const float> input, absl::Span<float> residual) {
    Payload payload{Compensate(input, residual), {}, false};
    std::fill(residual.begin(), residual.end(), 0.0f);
    return payload;
  };
}

// Gradients of every rank, the same numbers in every run.
class RandomGradients {
 public:
  RandomGradients(size_t world_size, size_t elements, uint32_t seed)
      : world_size_(world_size), elements_(elements), random_(seed) {}

  float Uniform() { return static_cast<float>(random_() % 20001) / 10000.0f - 1.0f; }
  std::vector<Vector> Next() {
    std::vector<Vector> gradients(world_size_, Vector(elements_));
    for (Vector& gradient : gradients) {
      for (float& g : gradient) g = Uniform();
    }
    return gradients;
  }
  // Small integers: their sums, and halves and quarters of them, are exact in fp32.
  std::vector<Vector> NextIntegers() {
    std::vector<Vector> gradients(world_size_, Vector(elements_));
    for (Vector& gradient : gradients) {
      for (float& g : gradient) g = static_cast<float>(static_cast<int>(random_() % 17) - 8);
    }
    return gradients;
  }

 private:
  const size_t world_size_;
  const size_t elements_;
  std::mt19937 random_;
};

}  // namespace terse

#endif  // TERSE_TESTS_METHODS_CODECS_H_
