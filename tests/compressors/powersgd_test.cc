// SPDX-License-Identifier: Apache-2.0
//
// powersgd on several simulated ranks, and where the published equations are silent: no gradient, fewer
// dimensions than columns, steps that are taken back, numbers beyond any scale.
#include "compressors/powersgd.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/memory/large_vector.h"
#include "gtest/gtest.h"
#include "tests/compressors/low_rank_ranks.h"

namespace terse {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::Compensated;
using ::terse::testing::Decaying;
using ::terse::testing::Distance;
using ::terse::testing::Doubles;
using ::terse::testing::Gradients;
using ::terse::testing::GuardedBytes;
using ::terse::testing::LowRankParams;
using ::terse::testing::LowRankRanks;
using ::terse::testing::Mean;
using ::terse::testing::Norm;
using ::terse::testing::Normal;
using ::terse::testing::Vector;
using wire::LowRankError;

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
      LowRankRanks ranks(LowRankParams(4, GetParam()), rows, columns, 3);
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
  // diag(8, 4, 2, ...), without the residuals that would turn it.
  constexpr size_t kN = 12;
  Vector diagonal(kN * kN);
  for (size_t i = 0; i < kN; ++i) diagonal[i * kN + i] = std::ldexp(8.0f, -static_cast<int>(i));
  LowRankRanks ranks(LowRankParams(2, GetParam()), kN, kN, 2);
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
  LowRankRanks ranks(LowRankParams(3, GetParam()), 17, 23, kRanks);
  for (int step = 0; step < 60; ++step) {
    const std::vector<Vector> gradients = Gradients(kRanks, 17, 23, step);
    std::vector<Vector> c;
    for (size_t r = 0; r < kRanks; ++r) c.push_back(Compensated(gradients[r], ranks.residuals[r]));
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

// A correction that waits for the next pass over the residual changes no bit, whatever the blocks of the
// pass: many rows, a few, and one that is longer than a block.
TEST_P(BothErrors, DeferredOrAtOnceIsTheSame) {
  for (const auto& [rows, columns] : {std::pair<size_t, size_t>{500, 70}, {7, 33}, {3, 20000}, {2100, 16}}) {
    SCOPED_TRACE(absl::StrCat(rows, " x ", columns));
    const auto made = [&, rows = rows, columns = columns] {
      return LowRankRanks(LowRankParams(4, GetParam()), static_cast<int64_t>(rows),
                          static_cast<int64_t>(columns), 2);
    };
    LowRankRanks at_once = made();
    LowRankRanks deferred = made();
    deferred.Defer();
    for (int step = 0; step < 6; ++step) {
      std::vector<Vector> gradients;
      for (uint32_t r = 0; r < 2; ++r) {
        gradients.push_back(Normal(rows * columns, 10 * static_cast<uint32_t>(step) + r + 1));
      }
      at_once.Exchange(gradients);
      deferred.Exchange(gradients);
      ASSERT_EQ(Bits(deferred.out), Bits(at_once.out)) << "step " << step;
      EXPECT_NE(Bits(deferred.residuals[1]), Bits(at_once.residuals[1])) << "nothing was deferred";
      if (step % 3 == 2) {
        deferred.Materialize();
        ASSERT_EQ(Bits(deferred.residuals[1]), Bits(at_once.residuals[1])) << "step " << step;
        at_once.Return(0.5f);
        deferred.Return(0.5f);
      }
    }
  }
}

TEST_P(BothErrors, ResidualsDrainWhenGradientsStop) {
  LowRankRanks ranks(LowRankParams(2, GetParam()), 16, 24, 4);
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
  double norms[2] = {};
  for (const LowRankError error : {LowRankError::kAveraged, LowRankError::kLocal}) {
    LowRankRanks ranks(LowRankParams(4, error), 16, 16, 4);
    for (int step = 0; step < 400; ++step) ranks.Exchange(Gradients(4, 16, 16, step));
    norms[static_cast<int>(error)] = Norm(ranks.residuals[1]);
  }
  EXPECT_GT(norms[0], 3 * norms[1]);
}

TEST_P(BothErrors, AStepWithoutGradientsKeepsTheWarmStart) {
  LowRankRanks ranks(LowRankParams(4, GetParam()), 30, 20, 2);
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
  LowRankRanks fresh(LowRankParams(4, GetParam()), 30, 20, 2);
  fresh.Exchange(gradients);
  EXPECT_LT(Distance(ranks.out, gradients[0]), 0.9 * Distance(fresh.out, gradients[0]));
}

TEST_P(BothErrors, AColumnThatWasLostComesBack) {
  // After many steps of one dimension all others of the warm start are noise; a gradient of four dimensions
  // must come through at once all the same.
  LowRankRanks ranks(LowRankParams(4, GetParam()), 40, 30, 3);
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
    LowRankRanks ranks(LowRankParams(4, GetParam()), 20, 30, 3);
    Vector gradient = Decaying(20, 30, 3, 0.8f, 1);
    for (float& x : gradient) x *= scale;
    ranks.Exchange(std::vector<Vector>(3, gradient));
    EXPECT_LE(Distance(ranks.out, gradient), 1e-5 * Norm(gradient));
  }
}

// Beyond +-2^90 an element of Q is cut off: what is left waits, and all stays finite.
TEST_P(BothErrors, BeyondTheLimitItTakesMoreSteps) {
  LowRankRanks ranks(LowRankParams(1, GetParam()), 1, 2, 2);
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
  LowRankRanks ranks(LowRankParams(4, GetParam()), 8, 8, 2);
  Vector bad = Normal(64, 1);
  Vector good = bad;
  bad[3] = std::numeric_limits<float>::quiet_NaN();
  bad[60] = -std::numeric_limits<float>::infinity();
  good[3] = good[60] = 0.0f;
  LowRankRanks reference(LowRankParams(4, GetParam()), 8, 8, 2);
  EXPECT_TRUE(ranks.Exchange({Normal(64, 2), bad}));
  EXPECT_FALSE(reference.Exchange({Normal(64, 2), good}));
  EXPECT_EQ(Bits(ranks.out), Bits(reference.out));
  EXPECT_EQ(Bits(ranks.residuals[1]), Bits(reference.residuals[1]));
  EXPECT_EQ(ranks.states, reference.states);
}

// The transport may fail in either round.
TEST_P(BothErrors, AnExchangeThatStopsHalfWayHasLostNothing) {
  for (const size_t last : {0, 1}) {
    LowRankRanks ranks(LowRankParams(4, GetParam()), 9, 11, 2);
    ranks.Exchange(Gradients(2, 9, 11, 1));
    const auto states = ranks.states;
    const std::vector<Vector> gradients = Gradients(2, 9, 11, 2);
    const Vector c = Compensated(gradients[1], ranks.residuals[1]);
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
  LowRankRanks ranks(LowRankParams(1, LowRankError::kAveraged), 2, 3, 2);
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
  const wire::CodecParams params = LowRankParams(4, LowRankError::kLocal);
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
  EXPECT_FALSE(codec.CheckParams(LowRankParams(0, LowRankError::kLocal)).ok());
  EXPECT_FALSE(codec.CheckParams(LowRankParams(1025, LowRankError::kLocal)).ok());

  const wire::CodecParams params = LowRankParams(2, LowRankError::kLocal);
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
  bad = args;
  bad.deferred = wire::Bytes(payload).first(payload.size() - 1);
  EXPECT_EQ(begin(bad, 0, 12), absl::StatusCode::kDataLoss);
  std::vector<std::byte> turned = payload;
  wire::Store(turned.data(), uint64_t{5});
  wire::Store(turned.data() + sizeof(uint64_t), uint64_t{6});
  bad.deferred = turned;
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
  for (const auto& size :
       {std::pair<size_t, size_t>{1, 1}, {3, 9003}, {2, 4096}, {9, 4097}, {5, 1040}, {1030, 15}, {6, 33}}) {
    const size_t rows = size.first;
    const size_t columns = size.second;
    for (size_t rank = 1; rank <= 9; ++rank) {
      SCOPED_TRACE(absl::StrCat(rows, " x ", columns, ", rank ", rank));
      const kernels::FactorShape shape{rows, columns, rank};
      const Vector input = Normal(rows * columns, 1);
      const Vector left = Normal(rows * rank, 2);
      const Vector right = Normal(columns * rank, 3);
      const auto run = [&](const kernels::Kernels& target) {
        Vector all = Normal(rows * columns, 4);
        Vector projected(rank * (rows + columns), 7.0f);
        const auto project = [&](const kernels::Factors& off) {
          EXPECT_FALSE(
              target.project_rows(shape, off, input.data(), all.data(), right.data(), projected.data()));
        };
        project({});
        project({left.data(), right.data()});
        const size_t cut = columns / 3;  // two parts, neither of whole vectors
        for (const auto& [first, last] : {std::pair<size_t, size_t>{0, cut}, {cut, columns}}) {
          target.project_columns(shape, all.data(), left.data(), projected.data() + rank * rows, first, last);
        }
        Vector expanded(rows * columns);
        target.expand(shape, left.data(), right.data(), 0.3f, kernels::Start::kAssign, expanded.data());
        target.expand(shape, left.data(), right.data(), -1.0f, kernels::Start::kAdd, all.data());
        for (const size_t shift : {0, 1, 8}) {  // around the caches, from places of every kind on
          FloatVector around(shift + rows * columns + 1, 7.0f);
          target.expand(shape, left.data(), right.data(), 0.3f, kernels::Start::kStream,
                        around.data() + shift);
          kernels::EndStream();
          const auto begin = around.begin() + static_cast<ptrdiff_t>(shift);
          EXPECT_EQ(Bits({begin, around.end() - 1}), Bits(expanded)) << target.name << " " << shift;
          EXPECT_EQ(around.back(), 7.0f);
        }
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
