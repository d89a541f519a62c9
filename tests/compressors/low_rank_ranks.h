// SPDX-License-Identifier: Apache-2.0
//
// powersgd on several simulated ranks, for its tests: the codec's rounds, summed in rank order as by
// `dense: deterministic`, and gradients worth compressing.
#ifndef TERSE_TESTS_COMPRESSORS_LOW_RANK_RANKS_H_
#define TERSE_TESTS_COMPRESSORS_LOW_RANK_RANKS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "compressors/powersgd.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse::testing {

using Vector = std::vector<float>;
using Doubles = std::vector<double>;

inline wire::CodecParams LowRankParams(uint32_t rank, wire::LowRankError error) {
  wire::CodecParams params;
  params.rank = rank;
  params.error = error;
  return params;
}

inline double Norm(const auto& values) {
  double sum = 0;
  for (const auto value : values) sum += double{value} * double{value};
  return std::sqrt(sum);
}

inline double Distance(const auto& a, const auto& b) {
  Doubles difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = double{a[i]} - double{b[i]};
  return Norm(difference);
}

// One tensor on several ranks.
class LowRankRanks {
 public:
  LowRankRanks(const wire::CodecParams& params, int64_t rows, int64_t columns, size_t ranks)
      : params_(params), shape_{rows, columns} {
    const RoundSizes sizes = codec_.SizesOf(params_, shape_);
    scratch_ = GuardedBytes(sizes.scratch);
    for (size_t r = 0; r < ranks; ++r) {
      residuals.emplace_back(static_cast<size_t>(rows * columns));
      states.emplace_back(sizes.state);
      payloads.emplace_back(sizes.payload);
    }
    out.resize(residuals[0].size());
  }

  // Leaves what is sent in the residuals until the next exchange, as the engine does. Without it they are
  // plain.
  void Defer() { deferred_.resize(residuals.size()); }

  // True when some rank's gradient was not finite.
  bool Exchange(const std::vector<Vector>& gradients) {
    bool nonfinite = false;
    for (size_t round = 0; round < 2; ++round) nonfinite |= Round(gradients, round);
    ++step_;
    for (size_t r = 1; r < states.size(); ++r) EXPECT_EQ(states[r], states[0]) << "rank " << r;
    return nonfinite;
  }

  bool Round(const std::vector<Vector>& gradients, size_t round) {
    const size_t count = codec_.RoundFloats(params_, shape_, round);
    Vector sum(count, 0.0f);
    bool nonfinite = false;
    for (size_t r = 0; r < residuals.size(); ++r) {
      Vector floats(count);
      const auto begun = codec_.BeginRound(params_, Args(gradients[r], r), round, absl::MakeSpan(floats));
      EXPECT_TRUE(begun.ok()) << begun.status();
      nonfinite |= begun.ok() && begun->nonfinite;
      if (round == 0 && !deferred_.empty()) deferred_[r].clear();
      for (size_t i = 0; i < count; ++i) sum[i] += floats[i];
    }
    sums = sum;
    for (size_t r = 0; r < residuals.size() && !stop_before_the_end; ++r) {
      Vector result(out.size());
      const absl::Status ended =
          codec_.EndRound(params_, Args(gradients[r], r), round, sum, absl::MakeSpan(result));
      EXPECT_TRUE(ended.ok()) << ended;
      if (round == 1 && r > 0) {
        EXPECT_EQ(Bits(result), Bits(out)) << "rank " << r;
      }
      out = result;
      if (round == 1 && !deferred_.empty()) deferred_[r] = payloads[r];
      if (round == 1 && deferred_.empty()) Add(-1.0f, r);
    }
    return nonfinite;
  }

  // What error feedback took off on a rank.
  Vector Sent(size_t rank) const {
    Vector sent(out.size());
    EXPECT_TRUE(codec_.Decode(params_, payloads[rank], 1.0f, Accumulate::kAssign, absl::MakeSpan(sent)).ok());
    return sent;
  }

  // The columns of P, behind the header of the payload.
  std::vector<Doubles> Left(size_t columns) const {
    std::vector<Doubles> left(columns, Doubles(static_cast<size_t>(shape_[0])));
    const std::byte* at = payloads[0].data() + 16;
    for (Doubles& column : left) {
      for (double& x : column) {
        x = double{wire::Load<float>(at)};
        at += sizeof(float);
      }
    }
    return left;
  }

  // The step was applied in part: the rest of what was sent returns, as the engine does it.
  void Return(float fraction) {
    for (size_t r = 0; r < residuals.size(); ++r) Add(fraction, r);
  }
  // Takes off what is deferred.
  void Materialize() {
    for (size_t r = 0; r < deferred_.size(); ++r) {
      if (!deferred_[r].empty()) Add(-1.0f, r);
      deferred_[r].clear();
    }
  }

  Doubles MeanResidual() const {
    Doubles mean(out.size());
    for (const Vector& residual : residuals) {
      for (size_t i = 0; i < mean.size(); ++i) mean[i] += residual[i] / double(residuals.size());
    }
    return mean;
  }

  Vector State() const {
    Vector state(states[0].size() / sizeof(float));
    std::copy(states[0].begin(), states[0].end(), reinterpret_cast<std::byte*>(state.data()));
    return state;
  }
  void SetState(const Vector& state) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(state.data());
    for (auto& own : states) own.assign(bytes, bytes + state.size() * sizeof(float));
  }
  // As the engine does when the plan has another rank.
  void SetRank(uint32_t rank) {
    params_.rank = rank;
    const RoundSizes sizes = codec_.SizesOf(params_, shape_);
    scratch_ = GuardedBytes(sizes.scratch);
    for (auto& state : states) state.resize(sizes.state);
    for (auto& payload : payloads) payload.resize(sizes.payload);
  }

  std::vector<Vector> residuals;
  std::vector<std::vector<std::byte>> states;
  std::vector<std::vector<std::byte>> payloads;
  Vector out;   // of the last exchange
  Vector sums;  // of the last round
  bool stop_before_the_end = false;

 private:
  // To a rank's residual, so much of what it sent.
  void Add(float weight, size_t rank) {
    const absl::Status added =
        codec_.Decode(params_, payloads[rank], weight, Accumulate::kAdd, absl::MakeSpan(residuals[rank]));
    EXPECT_TRUE(added.ok()) << added;
  }

  RoundArgs Args(const Vector& gradient, size_t rank) {
    RoundArgs args;
    args.shape = shape_;
    args.ranks = residuals.size();
    args.input = gradient;
    args.residual = absl::MakeSpan(residuals[rank]);
    args.state = absl::MakeSpan(states[rank]);
    if (!deferred_.empty()) args.deferred = deferred_[rank];
    args.payload = absl::MakeSpan(payloads[rank]);
    args.scratch = scratch_.bytes();
    args.random = {.seed = 5, .step = step_, .rank = 0, .tensor = 3, .stage = 0};
    return args;
  }

  const Compressor& codec_ = PowerSgdCompressor();
  wire::CodecParams params_;
  std::vector<int64_t> shape_;
  GuardedBytes scratch_{0};
  std::vector<std::vector<std::byte>> deferred_;  // payloads, by rank
  uint64_t step_ = 0;
};

// A matrix whose singular values fall by `decay` from one to the next, in fixed directions, of any length.
inline Vector Decaying(size_t rows, size_t columns, size_t dimensions, float decay, uint32_t seed) {
  const Vector left = Normal(rows * dimensions, seed);
  const Vector right = Normal(columns * dimensions, seed + 1);
  Vector matrix(rows * columns);
  float scale = 1.0f;
  for (size_t d = 0; d < dimensions; ++d) {
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < columns; ++j) {
        matrix[i * columns + j] += scale * left[d * rows + i] * right[d * columns + j];
      }
    }
    scale *= decay;
  }
  return matrix;
}

// A direction that stays and noise, different on each rank and at each step.
inline std::vector<Vector> Gradients(size_t ranks, size_t rows, size_t columns, int step) {
  std::vector<Vector> gradients;
  for (size_t r = 0; r < ranks; ++r) {
    Vector gradient = Decaying(rows, columns, std::min(rows, columns), 0.5f, 77);
    const Vector noise =
        Normal(gradient.size(), static_cast<uint32_t>(1000 * step + 10 + static_cast<int>(r)));
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += 0.2f * noise[i];
    gradients.push_back(std::move(gradient));
  }
  return gradients;
}

inline Doubles Mean(const std::vector<Vector>& vectors) {
  Doubles mean(vectors[0].size());
  for (const Vector& vector : vectors) {
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += vector[i] / double(vectors.size());
  }
  return mean;
}

}  // namespace terse::testing

#endif  // TERSE_TESTS_COMPRESSORS_LOW_RANK_RANKS_H_
