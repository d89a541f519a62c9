// SPDX-License-Identifier: Apache-2.0
#include "compressors/methods/job_momentum.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>
#include <utility>

#include "compressors/methods/finite.h"

namespace terse {
namespace {

// One in so many elements at most is not 0 where a vector is kept as a list: about there a list takes as
// long.
constexpr size_t kSparse = 128;
// After a result that was not sparse so many are taken for such without looking.
constexpr int kWait = 15;
// After so many sparse results in a row the vectors' memory is given back.
constexpr int kCalm = 16;

float Held(float value) {
  constexpr float kMost = std::numeric_limits<float>::max();
  return std::clamp(value, -kMost, kMost);
}

// next is computed as the job computes its buffer, so that what rounding does to both is the same.
uint32_t TurnPlain(size_t n, float m, const float* b, float* next, float* out) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    const float kept = m * b[i];
    const float a = out[i] - kept;
    bad |= IsFinite(a) ? 0u : 1u;
    next[i] = kept + a;
    out[i] = a;
  }
  return bad;
}

uint32_t TurnNesterov(size_t n, float m, const float* b, float* next, float* out) {
  const float part = 1.0f / (1.0f + m);
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    const float kept = m * b[i];
    const float a = (out[i] - m * kept) * part;
    bad |= IsFinite(a) ? 0u : 1u;
    next[i] = kept + a;
    out[i] = a;
  }
  return bad;
}

uint32_t Magnitude(float value) { return std::bit_cast<uint32_t>(value) << 1; }  // 0 for both zeros

template <size_t kSize>
bool AllZero(const float* x) {
  uint32_t any = 0;
  for (size_t i = 0; i < kSize; ++i) any |= Magnitude(x[i]);
  return any == 0;
}

// Where `values` are not 0, ascending. False when that is at more than `most` places; `positions` has some of
// them then.
bool Support(absl::Span<const float> values, size_t most, std::vector<uint32_t>* positions) {
  constexpr size_t kBlock = 64;
  constexpr size_t kPart = 16;
  positions->clear();
  if (values.size() > std::numeric_limits<uint32_t>::max()) return false;
  const float* const x = values.data();
  // Without a branch on each element.
  const auto collect = [&](size_t begin, size_t size) {
    uint32_t mask = 0;
    for (size_t i = 0; i < size; ++i) mask |= uint32_t{Magnitude(x[begin + i]) != 0} << i;
    for (; mask != 0; mask &= mask - 1)
      positions->push_back(static_cast<uint32_t>(begin + static_cast<size_t>(std::countr_zero(mask))));
  };
  size_t begin = 0;
  for (; begin + kBlock <= values.size() && positions->size() <= most; begin += kBlock) {
    if (AllZero<kBlock>(x + begin)) continue;
    for (size_t part = begin; part < begin + kBlock; part += kPart) {
      if (!AllZero<kPart>(x + part)) collect(part, kPart);
    }
  }
  for (; begin < values.size() && positions->size() <= most; begin += kPart)
    collect(begin, std::min(kPart, values.size() - begin));
  return positions->size() <= most;
}

// The same, looking at `support` alone.
bool NotZero(absl::Span<const float> values, absl::Span<const uint32_t> support, size_t most,
             std::vector<uint32_t>* positions) {
  positions->clear();
  const float* const x = values.data();
  for (const uint32_t position : support) {
    if (Magnitude(x[position]) != 0) positions->push_back(position);
  }
  return positions->size() <= most;
}

}  // namespace

JobMomentum::JobMomentum(double momentum, bool nesterov, double unit)
    : momentum_(static_cast<float>(momentum)),
      nesterov_(nesterov),
      over_(static_cast<float>((nesterov ? momentum : 1.0) * unit)) {}

void JobMomentum::Buffer::MakeDense(size_t n) {
  if (sparse) {
    dense.assign(n, 0.0f);
    for (size_t i = 0; i < positions.size(); ++i) dense[positions[i]] = values[i];
  }
  positions.clear();
  values.clear();
  sparse = false;
  dense.resize(n);
}

size_t JobMomentum::most_support(size_t n) const { return nesterov_ || wait_ > 0 ? 0 : n / kSparse; }

bool JobMomentum::Turn(absl::Span<float> out, const absl::Span<const uint32_t>* support) {
  const size_t n = out.size();
  size_ = n;
  if (FindEntries(out, support) && buffer_.sparse) return turned_ = TurnEntries(out);

  buffer_.MakeDense(n);
  next_.dense.resize(n);
  const auto turn = nesterov_ ? TurnNesterov : TurnPlain;
  turned_ = turn(n, momentum_, buffer_.dense.data(), next_.dense.data(), out.data()) == 0;
  if (next_.sparse) {
    for (size_t i = 0; i < next_.positions.size(); ++i) next_.values[i] = next_.dense[next_.positions[i]];
  }
  return turned_;
}

bool JobMomentum::FindEntries(absl::Span<const float> out, const absl::Span<const uint32_t>* support) {
  const bool look = !nesterov_ && wait_ == 0;
  const size_t most = out.size() / kSparse;
  next_.sparse = look && (support != nullptr ? NotZero(out, *support, most, &next_.positions)
                                             : Support(out, most, &next_.positions));
  if (!next_.sparse) {
    next_.positions.clear();
    wait_ = look ? kWait : std::max(0, wait_ - 1);
  }
  next_.values.resize(next_.positions.size());
  calm_ = next_.sparse ? std::min(calm_ + 1, kCalm) : 0;
  return next_.sparse;
}

// The same as TurnPlain, to the bit: where d is 0 the next b is kept - kept.
bool JobMomentum::TurnEntries(absl::Span<float> out) {
  if (calm_ == kCalm) {
    FloatVector().swap(buffer_.dense);
    FloatVector().swap(next_.dense);
  }
  uint32_t bad = 0;
  for (size_t i = 0; i < next_.positions.size(); ++i) {
    next_.values[i] = out[next_.positions[i]];
    bad |= IsFinite(next_.values[i]) ? 0u : 1u;
  }
  size_t at = 0;
  for (size_t i = 0; i < buffer_.positions.size(); ++i) {
    const uint32_t position = buffer_.positions[i];
    const float kept = momentum_ * buffer_.values[i];
    const float a = out[position] - kept;
    bad |= IsFinite(a) ? 0u : 1u;
    out[position] = a;
    while (at < next_.positions.size() && next_.positions[at] < position) ++at;
    if (at < next_.positions.size() && next_.positions[at] == position) next_.values[at] = kept + a;
  }
  return bad == 0;
}

void JobMomentum::Resolve(double applied, FloatVector* waiting) {
  if (!std::exchange(turned_, false) || applied <= 0) return;
  if (applied >= 1) {
    std::swap(buffer_, next_);
    return;
  }
  buffer_.MakeDense(size_);
  next_.MakeDense(size_);
  waiting->resize(size_);
  const auto share = static_cast<float>(applied);
  const auto over = static_cast<float>((1.0 - applied) * over_);
  const float* next = next_.dense.data();
  float* b = buffer_.dense.data();
  float* v = waiting->data();
  for (size_t i = 0; i < size_; ++i) {
    const float kept = momentum_ * b[i];
    v[i] = Held(v[i] - over * kept);
    b[i] = kept + share * (next[i] - kept);
  }
}

void JobMomentum::PassExact(uint64_t steps, FloatVector* u, FloatVector* v) {
  // By multiplication: std::pow need not be the same on all ranks' machines.
  constexpr double kNothing = 1e-60;
  double power = 1.0;  // m^steps
  double sum = 0.0;    // m + m^2 + ... + m^steps
  for (uint64_t step = 0; step < steps && power > kNothing; ++step) {
    power *= momentum_;
    sum += power;
  }
  const auto left = static_cast<float>(power);
  if (!v->empty()) {
    size_ = v->size();
    buffer_.MakeDense(size_);  // none yet where the state is that of a job without momentum
    const auto moved = static_cast<float>(sum);
    for (size_t i = 0; i < v->size(); ++i) {
      (*v)[i] = Held((*v)[i] + moved * ((*u)[i] - over_ * buffer_.dense[i]));
    }
  }
  for (float& x : buffer_.dense) x *= left;
  for (float& x : buffer_.values) x *= left;
  for (float& x : *u) x *= left;
}

}  // namespace terse
