// SPDX-License-Identifier: Apache-2.0
//
// powersgd on several simulated ranks: against a double-precision model of the published equations, and
// where those equations are silent (no gradient, fewer dimensions than columns, steps that are taken back).
#include "compressors/powersgd.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compressors/kernels/dispatch.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compressors/codec_cases.h"

namespace terse {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::GuardedBytes;
using ::terse::testing::Normal;
using wire::LowRankError;

using Vector = std::vector<float>;
using Doubles = std::vector<double>;

wire::CodecParams Params(uint32_t rank, LowRankError error) {
  wire::CodecParams params;
  params.rank = rank;
  params.error = error;
  return params;
}

double Norm(const auto& values) {
  double sum = 0;
  for (const auto value : values) sum += double{value} * double{value};
  return std::sqrt(sum);
}

double Distance(const auto& a, const auto& b) {
  Doubles difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = double{a[i]} - double{b[i]};
  return Norm(difference);
}

// One tensor on several ranks, whose rounds are summed in rank order as by `dense: deterministic`.
class Ranks {
 public:
  Ranks(const wire::CodecParams& params, int64_t rows, int64_t columns, size_t ranks)
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
    for (size_t r = 0; r < residuals.size(); ++r) {
      EXPECT_TRUE(
          codec_.Decode(params_, payloads[r], fraction, Accumulate::kAdd, absl::MakeSpan(residuals[r])).ok());
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
  RoundArgs Args(const Vector& gradient, size_t rank) {
    RoundArgs args;
    args.shape = shape_;
    args.ranks = residuals.size();
    args.input = gradient;
    args.residual = absl::MakeSpan(residuals[rank]);
    args.state = absl::MakeSpan(states[rank]);
    args.payload = absl::MakeSpan(payloads[rank]);
    args.scratch = scratch_.bytes();
    args.random = {.seed = 5, .step = step_, .rank = 0, .tensor = 3, .stage = 0};
    return args;
  }

  const Compressor& codec_ = PowerSgdCompressor();
  wire::CodecParams params_;
  std::vector<int64_t> shape_;
  GuardedBytes scratch_{0};
  uint64_t step_ = 0;
};

// A matrix whose singular values fall by `decay` from one to the next, in fixed directions, of any length.
Vector Decaying(size_t rows, size_t columns, size_t dimensions, float decay, uint32_t seed) {
  const Vector left = Normal(rows * dimensions, seed);
  const Vector right = Normal(columns * dimensions, seed + 1);
  Vector matrix(rows * columns);
  float scale = 1.0f;
  for (size_t d = 0; d < dimensions; ++d, scale *= decay) {
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < columns; ++j) {
        matrix[i * columns + j] += scale * left[d * rows + i] * right[d * columns + j];
      }
    }
  }
  return matrix;
}

// A direction that stays and noise, different on each rank and at each step.
std::vector<Vector> Gradients(size_t ranks, size_t rows, size_t columns, int step) {
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

Doubles Mean(const std::vector<Vector>& vectors) {
  Doubles mean(vectors[0].size());
  for (const Vector& vector : vectors) {
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += vector[i] / double(vectors.size());
  }
  return mean;
}

// Algorithm 1 of Vogels et al. as it is written, in fp64, with either error. Columns are vectors.
//
// Error feedback makes the directions of P chaotic: what is not sent grows until it turns them, so that a
// rounding error doubles every few steps. The model finds its own P in each step and holds the run's to it;
// then it goes on with the run's. All other numbers are its own.
class Model {
 public:
  Model(size_t rows, size_t columns, size_t ranks, LowRankError error, const Vector& start)
      : rows_(rows), columns_(columns), error_(error), e(ranks, Doubles(rows * columns)) {
    for (size_t k = 0; k < start.size() / columns; ++k) {
      q_.emplace_back(start.begin() + static_cast<ptrdiff_t>(k * columns),
                      start.begin() + static_cast<ptrdiff_t>((k + 1) * columns));
    }
  }

  Doubles Step(const std::vector<Vector>& gradients, const std::vector<Doubles>& run_p, double applied) {
    const size_t ranks = e.size();
    std::vector<Doubles> m = e;
    for (size_t r = 0; r < ranks; ++r) {
      for (size_t i = 0; i < m[r].size(); ++i) m[r][i] += gradients[r][i];
    }
    GramSchmidt(q_);
    std::vector<Doubles> p(q_.size(), Doubles(rows_));
    for (const Doubles& matrix : m) {
      for (size_t k = 0; k < q_.size(); ++k) {
        for (size_t i = 0; i < rows_; ++i) {
          for (size_t j = 0; j < columns_; ++j) p[k][i] += matrix[i * columns_ + j] * q_[k][j];
        }
      }
    }
    ExpectSameSpan(p, run_p);
    p = run_p;
    std::vector<std::vector<Doubles>> own(ranks, std::vector<Doubles>(q_.size(), Doubles(columns_)));
    std::vector<Doubles> mean(q_.size(), Doubles(columns_));
    for (size_t r = 0; r < ranks; ++r) {
      for (size_t k = 0; k < q_.size(); ++k) {
        for (size_t j = 0; j < columns_; ++j) {
          for (size_t i = 0; i < rows_; ++i) own[r][k][j] += m[r][i * columns_ + j] * p[k][i];
          mean[k][j] += own[r][k][j] / double(ranks);
        }
      }
    }
    const Doubles result = Product(p, mean);
    for (size_t r = 0; r < ranks; ++r) {
      const Doubles sent = error_ == LowRankError::kAveraged ? result : Product(p, own[r]);
      for (size_t i = 0; i < sent.size(); ++i) e[r][i] = m[r][i] - applied * sent[i];
    }
    q_ = mean;
    return result;
  }

 private:
  // `orthonormal` is that, and what it leaves of `columns` is rounding.
  static void ExpectSameSpan(const std::vector<Doubles>& columns, const std::vector<Doubles>& orthonormal) {
    double left = 0;
    double all = 0;
    for (Doubles column : columns) {
      all += Norm(column) * Norm(column);
      for (const Doubles& p : orthonormal) Subtract(Dot(p, column), p, column);
      left += Norm(column) * Norm(column);
    }
    EXPECT_LE(std::sqrt(left), 1e-5 * std::sqrt(all));
    for (size_t j = 0; j < orthonormal.size(); ++j) {
      for (size_t k = 0; k <= j; ++k) {
        EXPECT_NEAR(Dot(orthonormal[j], orthonormal[k]), j == k ? 1.0 : 0.0, 1e-6);
      }
    }
  }
  static double Dot(const Doubles& a, const Doubles& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }
  static void Subtract(double part, const Doubles& other, Doubles& column) {
    for (size_t i = 0; i < column.size(); ++i) column[i] -= part * other[i];
  }
  static void GramSchmidt(std::vector<Doubles>& columns) {
    for (size_t k = 0; k < columns.size(); ++k) {
      for (size_t j = 0; j < k; ++j) Subtract(Dot(columns[j], columns[k]), columns[j], columns[k]);
      const double norm = Norm(columns[k]);
      for (double& x : columns[k]) x /= norm;
    }
  }
  Doubles Product(const std::vector<Doubles>& p, const std::vector<Doubles>& q) const {
    Doubles out(rows_ * columns_);
    for (size_t k = 0; k < p.size(); ++k) {
      for (size_t i = 0; i < rows_; ++i) {
        for (size_t j = 0; j < columns_; ++j) out[i * columns_ + j] += p[k][i] * q[k][j];
      }
    }
    return out;
  }

  const size_t rows_;
  const size_t columns_;
  const LowRankError error_;
  std::vector<Doubles> q_;

 public:
  std::vector<Doubles> e;
};

struct ModelCase {
  std::string name;
  uint32_t rank;
  int64_t rows;
  int64_t columns;
  LowRankError error;
};

class AgainstModel : public ::testing::TestWithParam<ModelCase> {};

TEST_P(AgainstModel, TwoHundredSteps) {
  const ModelCase& test = GetParam();
  const auto rows = static_cast<size_t>(test.rows);
  const auto columns = static_cast<size_t>(test.columns);
  Ranks ranks(Params(test.rank, test.error), test.rows, test.columns, 4);
  const Vector start = Normal(test.rank * columns, 4);
  ranks.SetState(start);
  Model model(rows, columns, 4, test.error, start);
  for (int step = 0; step < 200; ++step) {
    const double applied = step % 13 == 5 ? 0.0 : (step % 17 == 3 ? 0.25 : 1.0);
    const std::vector<Vector> gradients = Gradients(4, rows, columns, step);
    ranks.Exchange(gradients);
    ranks.Return(static_cast<float>(1.0 - applied));
    SCOPED_TRACE(absl::StrCat("step ", step));
    const Doubles expected = model.Step(gradients, ranks.Left(test.rank), applied);
    ASSERT_LE(Distance(ranks.out, expected), 1e-5 * Norm(expected));
    for (size_t r = 0; r < 4; ++r) {
      ASSERT_LE(Distance(ranks.residuals[r], model.e[r]), 1e-5 * Norm(model.e[r]));
    }
    ASSERT_FALSE(HasFailure());
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, AgainstModel,
                         ::testing::Values(ModelCase{"Rank1Local", 1, 12, 9, LowRankError::kLocal},
                                           ModelCase{"Rank1Averaged", 1, 12, 9, LowRankError::kAveraged},
                                           ModelCase{"Rank2Local", 2, 7, 33, LowRankError::kLocal},
                                           ModelCase{"Rank2Averaged", 2, 7, 33, LowRankError::kAveraged},
                                           ModelCase{"Rank4Local", 4, 20, 15, LowRankError::kLocal},
                                           ModelCase{"Rank4Averaged", 4, 20, 15, LowRankError::kAveraged},
                                           ModelCase{"Rank6Local", 6, 18, 40, LowRankError::kLocal},
                                           ModelCase{"Rank6Averaged", 6, 18, 40, LowRankError::kAveraged}),
                         [](const auto& variant) { return variant.param.name; });

class BothErrors : public ::testing::TestWithParam<LowRankError> {};
INSTANTIATE_TEST_SUITE_P(PowerSgd, BothErrors,
                         ::testing::Values(LowRankError::kLocal, LowRankError::kAveraged),
                         [](const auto& error) {
                           return error.param == LowRankError::kLocal ? "Local" : "Averaged";
                         });

// A mean gradient of no more dimensions than columns comes through at once, whatever it started from.
TEST_P(BothErrors, LowRankIsExact) {
  for (const size_t dimensions : {1, 2, 4}) {
    for (const auto& [rows, columns] : {std::pair{64, 48}, std::pair{5, 301}, std::pair{301, 5}}) {
      SCOPED_TRACE(absl::StrCat(dimensions, " dimensions of ", rows, " x ", columns));
      Ranks ranks(Params(4, GetParam()), rows, columns, 3);
      const Vector whole =
          Decaying(static_cast<size_t>(rows), static_cast<size_t>(columns), dimensions, 0.7f, 9);
      std::vector<Vector> gradients(3, whole);
      for (size_t r = 0; r < 3; ++r) {
        for (float& x : gradients[r]) x *= static_cast<float>(r + 1);
      }
      for (int step = 0; step < 3; ++step) {
        ranks.Exchange(gradients);
        EXPECT_LE(Distance(ranks.out, Mean(gradients)), 2e-6 * Norm(Mean(gradients))) << "step " << step;
      }
    }
  }
}

// A power iteration with a warm start finds the best factors of a gradient that stays.
TEST_P(BothErrors, WarmStartConvergesToTheLargestSingularValues) {
  // diag(8, 4, 2, 1, ...) / hidden by nothing: rank 2 keeps 8 and 4, and error feedback brings the rest.
  constexpr size_t kN = 12;
  Vector diagonal(kN * kN);
  for (size_t i = 0; i < kN; ++i) diagonal[i * kN + i] = std::ldexp(8.0f, -static_cast<int>(i));
  Ranks ranks(Params(2, GetParam()), kN, kN, 2);
  for (int step = 0; step < 40; ++step) {
    for (Vector& residual : ranks.residuals) std::fill(residual.begin(), residual.end(), 0.0f);
    ranks.Exchange({diagonal, diagonal});
  }
  EXPECT_NEAR(ranks.out[0], 8.0f, 1e-5);
  EXPECT_NEAR(ranks.out[kN + 1], 4.0f, 1e-5);
  EXPECT_NEAR(ranks.out[2 * kN + 2], 0.0f, 1e-5);
  // More columns: the first two stay where they are.
  ranks.SetRank(3);
  for (Vector& residual : ranks.residuals) std::fill(residual.begin(), residual.end(), 0.0f);
  ranks.Exchange({diagonal, diagonal});
  EXPECT_NEAR(ranks.out[0], 8.0f, 1e-5);
  EXPECT_NEAR(ranks.out[kN + 1], 4.0f, 1e-5);
  // And fewer.
  ranks.SetRank(1);
  for (Vector& residual : ranks.residuals) std::fill(residual.begin(), residual.end(), 0.0f);
  ranks.Exchange({diagonal, diagonal});
  EXPECT_NEAR(ranks.out[0], 8.0f, 1e-5);
  EXPECT_NEAR(ranks.out[kN + 1], 0.0f, 1e-5);
}

TEST_P(BothErrors, NothingIsLostInAnyStep) {
  constexpr size_t kRanks = 5;
  Ranks ranks(Params(3, GetParam()), 17, 23, kRanks);
  for (int step = 0; step < 60; ++step) {
    const std::vector<Vector> gradients = Gradients(kRanks, 17, 23, step);
    std::vector<Vector> c;
    for (size_t r = 0; r < kRanks; ++r) c.push_back(testing::Compensated(gradients[r], ranks.residuals[r]));
    ranks.Exchange(gradients);
    Doubles mean_sent(ranks.out.size());
    for (size_t r = 0; r < kRanks; ++r) {
      const Vector sent = ranks.Sent(r);
      for (size_t i = 0; i < sent.size(); ++i) {
        mean_sent[i] += sent[i] / double(kRanks);
        ASSERT_LE(std::fabs(double{sent[i]} + ranks.residuals[r][i] - c[r][i]),
                  std::ldexp(std::fabs(ranks.residuals[r][i]), -24));
      }
    }
    ASSERT_LE(Distance(ranks.out, mean_sent), 1e-6 * Norm(mean_sent));
    if (step % 3 == 1) {
      const float back = step % 2 == 0 ? 1.0f : 0.75f;
      ranks.Return(back);
      Doubles expected = Mean(c);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] -= (1.0 - back) * ranks.out[i];
      ASSERT_LE(Distance(ranks.MeanResidual(), expected), 1e-6 * Norm(expected));
    }
  }
}

TEST_P(BothErrors, ResidualsDrainWhenGradientsStop) {
  Ranks ranks(Params(2, GetParam()), 16, 24, 4);
  Doubles left(16 * 24);
  for (int step = 0; step < 200; ++step) {
    std::vector<Vector> gradients(4, Vector(16 * 24));
    if (step < 20) gradients = Gradients(4, 16, 24, step);
    const Doubles mean = Mean(gradients);
    ranks.Exchange(gradients);
    for (size_t i = 0; i < left.size(); ++i) left[i] += mean[i] - ranks.out[i];
  }
  EXPECT_LE(Norm(left), 1e-4);
  EXPECT_LE(Norm(ranks.MeanResidual()), 1e-4);
  if (GetParam() == LowRankError::kAveraged) {
    // What the ranks differ by is never sent by any of them. It cancels in the mean and stays for ever.
    EXPECT_GE(Norm(ranks.residuals[0]), 1.0);
  } else {
    for (const Vector& residual : ranks.residuals) EXPECT_LE(Norm(residual), 1e-3);
  }
}

// Why kLocal is the default: the averaged convention's residuals walk off at random with the ranks' noise.
TEST(PowerSgd, LocalResidualsStaySmallerThanAveragedOnes) {
  double norms[2];
  for (const LowRankError error : {LowRankError::kAveraged, LowRankError::kLocal}) {
    Ranks ranks(Params(4, error), 16, 16, 4);
    for (int step = 0; step < 400; ++step) ranks.Exchange(Gradients(4, 16, 16, step));
    norms[static_cast<int>(error)] = Norm(ranks.residuals[1]);
  }
  EXPECT_GT(norms[0], 3 * norms[1]);
}

TEST_P(BothErrors, AStepWithoutGradientsKeepsTheWarmStart) {
  Ranks ranks(Params(4, GetParam()), 30, 20, 2);
  const std::vector<Vector> gradients(2, Decaying(30, 20, 20, 0.5f, 3));
  const std::vector<Vector> none(2, Vector(600));
  ranks.Exchange(none);
  EXPECT_EQ(ranks.State(), Vector(80)) << "nothing was learned";
  EXPECT_EQ(ranks.out, Vector(600));
  for (int step = 0; step < 20; ++step) {
    for (Vector& residual : ranks.residuals) std::fill(residual.begin(), residual.end(), 0.0f);
    ranks.Exchange(gradients);
  }
  const Vector state = ranks.State();
  for (Vector& residual : ranks.residuals) std::fill(residual.begin(), residual.end(), 0.0f);
  ranks.Exchange(none);
  EXPECT_EQ(ranks.out, Vector(600));
  EXPECT_EQ(Bits(ranks.State()), Bits(state));
  const Vector before = ranks.out;
  ranks.Exchange(gradients);
  Ranks fresh(Params(4, GetParam()), 30, 20, 2);
  fresh.Exchange(gradients);
  EXPECT_LT(Distance(ranks.out, gradients[0]), 0.9 * Distance(fresh.out, gradients[0]));
}

TEST_P(BothErrors, AColumnThatWasLostComesBack) {
  // After many steps of one dimension all others of the warm start are noise; a gradient of four dimensions
  // must come through at once all the same.
  Ranks ranks(Params(4, GetParam()), 40, 30, 3);
  for (int step = 0; step < 50; ++step) {
    ranks.Exchange(std::vector<Vector>(3, Decaying(40, 30, 1, 1.0f, 5)));
  }
  for (Vector& residual : ranks.residuals) std::fill(residual.begin(), residual.end(), 0.0f);
  const Vector next = Decaying(40, 30, 4, 0.8f, 50);
  ranks.Exchange(std::vector<Vector>(3, next));
  EXPECT_LE(Distance(ranks.out, next), 1e-4 * Norm(next));
}

TEST_P(BothErrors, AnyScale) {
  for (const float scale : {1e-30f, 1e-15f, 1e15f, 1e24f}) {
    SCOPED_TRACE(scale);
    Ranks ranks(Params(4, GetParam()), 20, 30, 3);
    Vector gradient = Decaying(20, 30, 3, 0.8f, 1);
    for (float& x : gradient) x *= scale;
    ranks.Exchange(std::vector<Vector>(3, gradient));
    EXPECT_LE(Distance(ranks.out, gradient), 1e-5 * Norm(gradient));
  }
}

// Beyond +-2^90 an element of Q is cut off: what is left waits, and all stays finite.
TEST_P(BothErrors, BeyondTheLimitItTakesMoreSteps) {
  Ranks ranks(Params(1, GetParam()), 1, 2, 2);
  const float large = 0x1.8p91f;
  ranks.Exchange({{large, 0.0f}, {large, 0.0f}});
  EXPECT_EQ(std::fabs(ranks.out[0]), 0x1p90f);
  ranks.Exchange({{0.0f, 0.0f}, {0.0f, 0.0f}});
  EXPECT_EQ(std::fabs(ranks.out[0]), 0x1p90f);
  ranks.Exchange({{0.0f, 0.0f}, {0.0f, 0.0f}});
  EXPECT_EQ(std::fabs(ranks.out[0]), 0x1p90f);
  EXPECT_EQ(ranks.residuals[0], Vector({0.0f, 0.0f}));
}

TEST_P(BothErrors, NonFiniteElementsCountAsZeroAndAreNotKept) {
  Ranks ranks(Params(4, GetParam()), 8, 8, 2);
  Vector bad = Normal(64, 1);
  Vector good = bad;
  bad[3] = std::numeric_limits<float>::quiet_NaN();
  bad[60] = -std::numeric_limits<float>::infinity();
  good[3] = good[60] = 0.0f;
  Ranks reference(Params(4, GetParam()), 8, 8, 2);
  EXPECT_TRUE(ranks.Exchange({Normal(64, 2), bad}));
  EXPECT_FALSE(reference.Exchange({Normal(64, 2), good}));
  EXPECT_EQ(Bits(ranks.out), Bits(reference.out));
  EXPECT_EQ(Bits(ranks.residuals[1]), Bits(reference.residuals[1]));
  EXPECT_EQ(ranks.states, reference.states);
}

// The transport may fail in either round.
TEST_P(BothErrors, AnExchangeThatStopsHalfWayHasLostNothing) {
  for (const size_t last : {0, 1}) {
    Ranks ranks(Params(4, GetParam()), 9, 11, 2);
    ranks.Exchange(Gradients(2, 9, 11, 1));
    const auto states = ranks.states;
    const std::vector<Vector> gradients = Gradients(2, 9, 11, 2);
    const Vector c = testing::Compensated(gradients[1], ranks.residuals[1]);
    for (size_t round = 0; round <= last; ++round) {
      ranks.stop_before_the_end = round == last;
      ranks.Round(gradients, round);
    }
    EXPECT_EQ(Bits(ranks.residuals[1]), Bits(c));
    EXPECT_EQ(ranks.states, states);
  }
}

// The state is the mean Q, column after column, and the first round's floats are P, the second's Q.
TEST(PowerSgd, FloatsAndStateOfAWorkedExample) {
  Ranks ranks(Params(1, LowRankError::kAveraged), 2, 3, 2);
  ranks.SetState({0.0f, 0.0f, 2.0f});  // Q = (0, 0, 1) when it is orthonormal
  // M = [1 2 3; 4 5 4] and [3 2 3; 0 1 4]: M Q sums to (6, 8), P = (0.6, 0.8).
  const std::vector<Vector> gradients = {{1, 2, 3, 4, 5, 4}, {3, 2, 3, 0, 1, 4}};
  ranks.Round(gradients, 0);
  EXPECT_EQ(ranks.sums, Vector({6.0f, 8.0f}));
  ranks.Round(gradients, 1);
  // The mean of transpose(M) P.
  const Vector q = {0.6f * 2 + 0.8f * 2, 0.6f * 2 + 0.8f * 3, 0.6f * 3 + 0.8f * 4};
  for (size_t j = 0; j < 3; ++j) {
    EXPECT_FLOAT_EQ(ranks.sums[j], 2 * q[j]);
    EXPECT_FLOAT_EQ(ranks.State()[j], q[j]);
    EXPECT_FLOAT_EQ(ranks.out[j], 0.6f * q[j]);
    EXPECT_FLOAT_EQ(ranks.out[3 + j], 0.8f * q[j]);
    EXPECT_FLOAT_EQ(ranks.residuals[0][j], gradients[0][j] - 0.6f * q[j]);
  }
  EXPECT_EQ(ranks.states[0].size(), 12u);
}

TEST(PowerSgd, RoundsCarryTheFactors) {
  const PowerSgd codec;
  const wire::CodecParams params = Params(4, LowRankError::kLocal);
  EXPECT_EQ(codec.RoundFloats(params, {4096, 1024}, 0), 4u * 4096);
  EXPECT_EQ(codec.RoundFloats(params, {4096, 1024}, 1), 4u * 1024);
  EXPECT_EQ(codec.RoundFloats(params, {64, 3, 7, 7}, 0), 4u * 64);
  EXPECT_EQ(codec.RoundFloats(params, {64, 3, 7, 7}, 1), 4u * 147);
  EXPECT_EQ(codec.RoundFloats(params, {3, 100}, 1), 3u * 100);
  EXPECT_EQ(codec.RoundFloats(params, {100}, 0), 100u);
  EXPECT_EQ(codec.RoundFloats(params, {}, 0), 1u);
  EXPECT_EQ(codec.RoundFloats(params, {0, 5}, 1), 0u);
}

TEST(PowerSgd, RefusesArgumentsThatDoNotFit) {
  const PowerSgd codec;
  EXPECT_FALSE(codec.CheckParams(Params(0, LowRankError::kLocal)).ok());
  EXPECT_FALSE(codec.CheckParams(Params(1025, LowRankError::kLocal)).ok());

  const wire::CodecParams params = Params(2, LowRankError::kLocal);
  const std::vector<int64_t> shape = {6, 5};
  const RoundSizes sizes = codec.SizesOf(params, shape);
  const Vector input = Normal(30, 1);
  Vector residual(30);
  Vector floats(12);
  std::vector<std::byte> state(sizes.state);
  std::vector<std::byte> payload(sizes.payload);
  GuardedBytes scratch(sizes.scratch);
  RoundArgs args;
  args.shape = shape;
  args.input = input;
  args.residual = absl::MakeSpan(residual);
  args.state = absl::MakeSpan(state);
  args.payload = absl::MakeSpan(payload);
  args.scratch = scratch.bytes();
  const auto begin = [&](const RoundArgs& with, size_t round, size_t count) {
    return codec.BeginRound(params, with, round, absl::MakeSpan(floats).first(count)).status().code();
  };
  ASSERT_EQ(begin(args, 0, 12), absl::StatusCode::kOk);
  EXPECT_EQ(begin(args, 0, 11), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin(args, 2, 12), absl::StatusCode::kInvalidArgument);
  RoundArgs bad = args;
  bad.input = bad.input.first(29);
  EXPECT_EQ(begin(bad, 0, 12), absl::StatusCode::kInvalidArgument);
  bad = args;
  bad.residual = {};
  EXPECT_EQ(begin(bad, 0, 12), absl::StatusCode::kInvalidArgument);
  for (wire::MutableBytes RoundArgs::*bytes : {&RoundArgs::state, &RoundArgs::payload, &RoundArgs::scratch}) {
    bad = args;
    (bad.*bytes).remove_suffix(1);
    EXPECT_EQ(begin(bad, 0, 12), absl::StatusCode::kInvalidArgument);
  }
  Vector out(29);
  EXPECT_EQ(codec.EndRound(params, args, 1, absl::MakeSpan(floats).first(10), absl::MakeSpan(out)).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(codec.Encode(params, {}, {}).status().code(), absl::StatusCode::kUnimplemented);
}

// Chunks of sums, tiles and tails that no square matrix of a test reaches.
TEST(PowerSgd, KernelsAreThoseOfTheReference) {
  for (const auto& [rows, columns] :
       {std::pair<size_t, size_t>{1, 1}, {3, 9003}, {2, 4096}, {9, 4097}, {5, 1040}, {1030, 15}, {6, 33}}) {
    for (size_t rank = 1; rank <= 9; ++rank) {
      SCOPED_TRACE(absl::StrCat(rows, " x ", columns, ", rank ", rank));
      const kernels::FactorShape shape{rows, columns, rank, columns};
      const Vector input = Normal(rows * columns, 1);
      const Vector left = Normal(rows * rank, 2);
      const Vector right = Normal(columns * rank, 3);
      const auto run = [&](const kernels::Kernels& target) {
        Vector all = Normal(rows * columns, 4);
        Vector projected(rank * (rows + columns), 7.0f);
        EXPECT_FALSE(target.project_rows(shape, input.data(), all.data(), right.data(), projected.data()));
        target.project_columns(shape, all.data(), left.data(), projected.data() + rank * rows);
        Vector expanded(rows * columns);
        target.expand(shape, left.data(), right.data(), 0.3f, kernels::Start::kAssign, expanded.data());
        target.expand(shape, left.data(), right.data(), -1.0f, kernels::Start::kAdd, all.data());
        all.insert(all.end(), projected.begin(), projected.end());
        all.insert(all.end(), expanded.begin(), expanded.end());
        return Bits(all);
      };
      const std::vector<uint32_t> expected = run(kernels::ScalarKernels());
      for (const kernels::Kernels* target : kernels::AvailableKernels()) {
        EXPECT_EQ(run(*target), expected) << target->name;
      }
    }
  }
}

}  // namespace
}  // namespace terse
