// SPDX-License-Identifier: Apache-2.0
//
// What only the whole engine shows of method dgc: momentum where nothing is compressed, and which calls
// weight decay goes with.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using Vector = std::vector<float>;

// Exact in fp32, so that sums are equal in whatever order.
Vector Gradient(size_t n, int rank, int step) {
  Vector g(n);
  for (size_t i = 0; i < n; ++i) {
    g[i] = static_cast<float>((7 * i + 3 * static_cast<size_t>(rank) + static_cast<size_t>(step)) % 9) - 4;
  }
  return g;
}

struct Case {
  const char* name;
  int ranks;
  std::pair<std::string, std::string> dense_by;  // the setting that makes the exchange dense
};

// Momentum SGD, at any number of ranks (the authors' code has none with one), whatever makes a tensor dense.
TEST(DgcTest, WithoutCompressionIsMomentumSgd) {
  constexpr size_t kElements = 500;
  for (const Case& test :
       {Case{"one rank", 1, {"dgc.density", "0.001"}}, Case{"small", 3, {"min_elements", "501"}},
        Case{"excluded", 2, {"exclude", "w*"}}, Case{"density 1", 4, {"dgc.density", "1"}},
        Case{"disabled", 2, {"disable", "true"}}}) {
    for (const char* nesterov : {"false", "true"}) {
      SCOPED_TRACE(std::string(test.name) + ", nesterov " + nesterov);
      const bool with_nesterov = std::string(nesterov) == "true";
      // A momentum of 1/2 is exact for as many steps.
      const wire::Config config = TestConfig({{"method", "dgc"},
                                              {"dgc.momentum", "0.5"},
                                              {"dgc.nesterov", nesterov},
                                              {"dense", "deterministic"},
                                              test.dense_by});
      RunRanks(test.ranks, config, [&](Engine& engine) {
        const absl::StatusOr<uint32_t> id =
            engine.Register("weight", wire::DType::kFloat32, {int64_t{kElements}});
        ASSERT_TRUE(id.ok());
        std::vector<double> buffer(kElements);
        Vector out(kElements);
        for (int step = 0; step < 12; ++step) {
          const Vector g = Gradient(kElements, engine.rank(), step);
          const Call call{.tensor = *id, .send = g.data(), .recv = out.data()};
          ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
          ASSERT_TRUE(engine.Step(1.0).ok());
          Vector sum(kElements);
          for (int rank = 0; rank < test.ranks; ++rank) {
            const Vector other = Gradient(kElements, rank, step);
            for (size_t i = 0; i < kElements; ++i) sum[i] += other[i];
          }
          for (size_t i = 0; i < kElements; ++i) {
            const double mean = double{sum[i]} / test.ranks;
            buffer[i] = 0.5 * buffer[i] + mean;
            ASSERT_NEAR(out[i], with_nesterov ? mean + 0.5 * buffer[i] : buffer[i], 2e-6) << step << " " << i;
          }
        }
      });
    }
  }
}

// The threshold is that of the mean: two ranks may each have sqrt(2) of it.
TEST(DgcTest, ClippingKnowsTheNumberOfRanks) {
  for (const char* density : {"1", "0.5"}) {
    const wire::Config config =
        TestConfig({{"method", "dgc"}, {"dgc.momentum", "0"}, {"dgc.clip", "5"}, {"dgc.density", density}});
    RunRanks(2, config, [&](Engine& engine) {
      const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {int64_t{4}});
      ASSERT_TRUE(id.ok());
      Vector g(4);
      g[static_cast<size_t>(engine.rank())] = 100;
      Vector out(4);
      const Call call{.tensor = *id, .send = g.data(), .recv = out.data()};
      ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
      const auto each = static_cast<float>(5 * std::sqrt(2.0) / 2);
      EXPECT_FLOAT_EQ(out[0], each);
      EXPECT_FLOAT_EQ(out[1], each);
    });
  }
}

TEST(DgcTest, LocalWeightDecayNeedsTheOptimizerStep) {
  const wire::Config config = TestConfig({{"method", "dgc"},
                                          {"dgc.momentum", "0"},
                                          {"dgc.weight_decay", "0.25"},
                                          {"dgc.decay", "local"},
                                          {"dgc.density", "0.5"}});
  RunRanks(2, config, [](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {int64_t{4}});
    ASSERT_TRUE(id.ok());
    const Vector g = {1, 0, 0, 0};
    Vector out(4);
    const Call call{.tensor = *id, .send = g.data(), .recv = out.data()};
    for (const absl::Status& status : {engine.Allreduce({&call, 1}), engine.Submit(call)}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_NE(status.message().find("call that, or set dgc.weight_decay: 0"), absl::string_view::npos)
          << status;
    }
    // The group stays usable. The decay of 0.25 * 8 goes through the selection, and is half of what is sent.
    Vector w = {0, 8, 0, 0};
    float* const parameter = w.data();
    const absl::StatusOr<bool> applied = engine.OptimizerStep({&call, 1}, {&parameter, 1}, 0.5);
    ASSERT_TRUE(applied.ok() && *applied) << applied.status();
    EXPECT_EQ(w, (Vector{-0.5f, 7, 0, 0}));
  });
}

// Rounded values of a step that is skipped come back whole.
TEST(DgcTest, ASkippedStepTakesRoundedValuesBack) {
  for (const char* values : {"fp32", "fp16", "bf16"}) {
    const wire::Config config = TestConfig(
        {{"method", "dgc"}, {"dgc.momentum", "0"}, {"dgc.density", "0.25"}, {"topk.values", values}});
    RunRanks(2, config, [&](Engine& engine) {
      const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {int64_t{4}});
      ASSERT_TRUE(id.ok());
      const Vector g = {0, 1.0f / 3, 0.125f, 0};
      const Vector zero(4);
      Vector first(4);
      Vector again(4);
      const Call give{.tensor = *id, .send = g.data(), .recv = first.data()};
      ASSERT_TRUE(engine.Allreduce({&give, 1}).ok());
      ASSERT_TRUE(engine.Step(0.0).ok());
      const Call repeat{.tensor = *id, .send = zero.data(), .recv = again.data()};
      ASSERT_TRUE(engine.Allreduce({&repeat, 1}).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
      EXPECT_EQ(again, first) << values;
      EXPECT_EQ(first[1] == g[1], std::string(values) == "fp32");
      // What rounding cut off, and what was not selected, add up over the steps to come.
      Vector arrived = again;
      for (int step = 0; step < 8; ++step) {
        ASSERT_TRUE(engine.Allreduce({&repeat, 1}).ok());
        ASSERT_TRUE(engine.Step(1.0).ok());
        for (size_t i = 0; i < 4; ++i) arrived[i] += again[i];
      }
      for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(arrived[i], g[i], 3e-8) << values;
    });
  }
}

}  // namespace
}  // namespace terse::engine
