// SPDX-License-Identifier: Apache-2.0
//
// `dense_when_faster` takes tensors from compressed to dense and back, and loses nothing of a gradient.
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/engine/plans.h"
#include "tests/engine/priced_ranks.h"

namespace terse::engine {
namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;

// Gradients of all steps, through all switches, against what came out: what a dense step that was not applied
// drops aside, nothing is lost.
double Lost(int ranks, const Settings& settings, uint32_t seed) {
  const wire::Config config = Faster(settings);
  std::vector<double> applied(kN);
  std::vector<double> expected(kN);
  std::mutex mutex;
  int switches = 0;
  const double weight = config.reduce == wire::Reduce::kMean ? 1.0 / ranks : 1.0;
  RunPriced(ranks, config, [&](Rank& rank) {
    rank.Register();
    std::mt19937 shared(seed);
    const auto count = [&](double part) {
      for (size_t i = 0; rank.engine.rank() == 0 && i < kN; ++i) {
        applied[i] += part * static_cast<double>(rank.out[0][i]);
      }
    };
    for (int step = 0; step < 600; ++step) {
      Turn(step / 150 % 2 == 0, &rank.link);
      const bool dense = rank.dense();
      const uint32_t fate = static_cast<uint32_t>(shared() % 5);
      const double part = fate == 0 ? 0.0 : fate == 1 ? 0.5 : 1.0;
      rank.Exchange();
      rank.Step(part);
      count(part);
      if (rank.engine.rank() == 0 && rank.dense() != dense) ++switches;
      const double kept = dense ? part : 1.0;
      const std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = 0; i < kN; ++i) expected[i] += weight * kept * static_cast<double>(rank.gradient[i]);
    }
    ASSERT_TRUE(
        rank.engine.Adopt(PlanOf(rank.engine.plan_version() + 1, rank.engine.step(), {Dense()})).ok());
    for (int step = 0; step < 800; ++step) {
      rank.ExchangeZeros();
      rank.Step();
      count(1.0);
    }
    EXPECT_EQ(rank.engine.row(0).codec, wire::Codec::kNone) << "a plan's dense row is not tried";
  });
  EXPECT_GE(switches, 3);
  return RelativeDifference(applied, expected);
}

TEST(DenseWhenFasterConservation, SwitchesLoseNothing) {
  for (const char* codec : {"quantize", "onebit", "powersgd", "bf16"}) {
    EXPECT_LT(Lost(3, {{"compressor", codec}}, 2), 1e-4) << codec;
  }
  EXPECT_LT(Lost(2, {{"reduce", "sum"}}, 3), 1e-4);
}

// Without masking the sum of DGC's updates is that of momentum SGD, whatever goes dense meanwhile.
TEST(DenseWhenFasterConservation, DgcKeepsItsMomentumAndItsRest) {
  const wire::Config config = Faster({{"method", "dgc"},
                                      {"dgc.masking", "false"},
                                      {"dgc.momentum", "0.5"},
                                      {"dgc.density", "0.05"},
                                      {"topk.exchange", "sparse_reduce"}});
  RunPriced(2, config, [](Rank& rank) {
    rank.Register();
    std::mt19937 shared(5);
    std::normal_distribution<float> normal;
    std::vector<double> momentum(kN);
    std::vector<double> expected(kN);
    std::vector<double> applied(kN);
    int switches = 0;
    for (int step = 0; step < 1600; ++step) {
      Turn(step / 150 % 2 == 0, &rank.link);
      if (step == 600) {
        ASSERT_TRUE(rank.engine.Adopt(PlanOf(rank.engine.plan_version() + 1, 600, {Dense()})).ok());
      }
      const bool dense = rank.dense();
      for (float& g : rank.gradient) g = step < 600 ? normal(shared) : 0.0f;
      ASSERT_TRUE(
          rank.engine.Allreduce({{.tensor = 0, .send = rank.gradient.data(), .recv = rank.out[0].data()}})
              .ok());
      rank.Step();
      switches += step < 600 && rank.dense() != dense ? 1 : 0;
      for (size_t i = 0; i < kN; ++i) {
        momentum[i] = 0.5 * momentum[i] + static_cast<double>(rank.gradient[i]);
        expected[i] += momentum[i];
        applied[i] += static_cast<double>(rank.out[0][i]);
      }
    }
    EXPECT_GE(switches, 3);
    EXPECT_LT(RelativeDifference(applied, expected), 1e-4);
  });
}

// A state that is saved while its tensor is dense: what waits comes along, and the tensor is tried anew.
TEST(DenseWhenFasterConservation, SavedState) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/terse_dense_when_faster_", getpid());
  std::vector<double> delivered(kN);
  std::vector<double> expected(kN);
  std::mutex mutex;
  const auto count = [&](const Rank& rank) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (size_t i = 0; i < kN; ++i) {
      expected[i] += 0.5 * static_cast<double>(rank.gradient[i]);
      if (rank.engine.rank() == 0) delivered[i] += static_cast<double>(rank.out[0][i]);
    }
  };
  const wire::Config config = Faster({{"compressor", "onebit"}});
  RunPriced(2, config, [&](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register();
    for (int step = 0; step < 4; ++step) {
      rank.Steps(1);
      count(rank);
    }
    EXPECT_TRUE(rank.dense());
    ASSERT_TRUE(rank.engine.SaveState(path).ok());
  });
  RunPriced(2, config, [&](Rank& rank) {
    rank.link.latency_ms = 1;
    rank.Register();
    ASSERT_TRUE(rank.engine.LoadState(path).ok());
    EXPECT_EQ(rank.engine.step(), 4u);
    EXPECT_FALSE(rank.dense());
    int steps = 0;
    for (; steps < 10 && !rank.dense(); ++steps) {
      rank.Steps(1);
      count(rank);
    }
    EXPECT_EQ(steps, 3);
    for (int step = 0; step < 1000; ++step) {
      rank.ExchangeZeros();
      rank.Step();
      count(rank);
    }
  });
  EXPECT_LT(RelativeDifference(delivered, expected), 1e-4);
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace terse::engine
