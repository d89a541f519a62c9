// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/engine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

uint32_t MustRegister(Engine& engine, const std::string& name, std::vector<int64_t> shape) {
  const absl::StatusOr<uint32_t> id = engine.Register(name, wire::DType::kFloat32, shape);
  EXPECT_TRUE(id.ok()) << id.status();
  return id.value_or(0);
}

// Normally distributed, equal for equal (rank, step).
std::vector<float> Gradient(int rank, int step, size_t n) {
  std::mt19937 random(static_cast<uint32_t>(1000 * rank + step));
  std::normal_distribution<float> normal;
  std::vector<float> g(n);
  for (float& x : g) x = normal(random);
  return g;
}

absl::Status Exchange(Engine& engine, uint32_t tensor, const std::vector<float>& send,
                      std::vector<float>* recv) {
  const Call call{.tensor = tensor, .send = send.data(), .recv = recv->data()};
  return engine.Allreduce({&call, 1});
}

// reference/onebit_adam.md section 6, item 7: two workers, sixteen elements, L2 scales. What the owners
// send back is the mean with both errors fed back; every value is dyadic, so equality is exact.
TEST(EngineTest, OneBitWorkedExampleIsExact) {
  const std::array<std::array<std::vector<float>, 2>, 2> sent = {{
      {{{0, 5, 1, 1, -4, -2, 1, -1, -3, 6, 5, -2, 2, -8, -1, 8},
        {-1, 2, -1, -1, -2, -3, -2, 2, -2, -2, 1, 2, -1, 3, -3, -2}}},
      {{{6, 0, 9, 4, 2, -7, 6, -8, 4, 0, 3, 7, 6, 2, -1, -5},
        {-1, -11, 11, 2, -6, 11, -3, -10, 4, -1, 5, 3, 1, 2, 2, 1}}},
  }};
  const std::array<std::vector<float>, 2> expected = {{
      {2, 2, 2, 2, -2, -2, 2, -2, -2, 2, 2, -2, 2, -2, -2, 2},
      {3, 3, 3, 3, -3, 3, -3, -3, 4, -4, 4, 4, 4, 4, 4, 4},
  }};
  RunRanks(2, TestConfig({{"compressor", "onebit"}}), [&](Engine& engine) {
    const uint32_t id = MustRegister(engine, "m", {16});
    for (size_t round = 0; round < 2; ++round) {
      std::vector<float> out(16);
      ASSERT_TRUE(Exchange(engine, id, sent[round][static_cast<size_t>(engine.rank())], &out).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
      EXPECT_THAT(out, ElementsAreArray(expected[round])) << "round " << round + 1;
    }
  });
}

struct Case {
  std::string name;
  std::vector<std::pair<std::string, std::string>> settings;
  float most_left;  // |what is not delivered after the last step|, in units of the gradient's norm
};

class EveryCompressor : public ::testing::TestWithParam<Case> {};

// All that was put in came out or waits in a residual: after steps without a gradient (and some that were
// skipped) the sum of the results is the sum of the gradients' means.
TEST_P(EveryCompressor, LosesNothing) {
  constexpr int kRanks = 3;
  constexpr size_t kN = 1000;
  constexpr int kSteps = 10;
  std::vector<double> total(kN, 0.0);
  for (int step = 0; step < kSteps; ++step) {
    for (int r = 0; r < kRanks; ++r) {
      const std::vector<float> g = Gradient(r, step, kN);
      for (size_t i = 0; i < kN; ++i) total[i] += g[i] / double{kRanks};
    }
  }
  double norm = 0;
  for (const double x : total) norm += x * x;
  std::vector<std::vector<float>> results(kRanks);
  RunRanks(kRanks, TestConfig(GetParam().settings), [&](Engine& engine) {
    const uint32_t id = MustRegister(engine, "w", {40, kN / 40});
    std::vector<double> left = total;
    std::vector<float> out(kN);
    for (int step = 0; step < 400; ++step) {
      const std::vector<float> g =
          step < kSteps ? Gradient(engine.rank(), step, kN) : std::vector<float>(kN, 0.0f);
      ASSERT_TRUE(Exchange(engine, id, g, &out).ok());
      const double applied = step % 5 == 3 ? 0.0 : step % 7 == 4 ? 0.25 : 1.0;
      ASSERT_TRUE(engine.Step(applied).ok());
      for (size_t i = 0; i < kN; ++i) left[i] -= applied * out[i];
    }
    double rest = 0;
    for (const double x : left) rest += x * x;
    EXPECT_LE(std::sqrt(rest), GetParam().most_left * std::sqrt(norm));
    results[static_cast<size_t>(engine.rank())] = out;
  });
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

INSTANTIATE_TEST_SUITE_P(
    All, EveryCompressor,
    ::testing::Values(
        Case{"fp16", {{"compressor", "fp16"}}, 1e-4f}, Case{"bf16", {{"compressor", "bf16"}}, 1e-3f},
        Case{"topk", {{"compressor", "topk"}, {"topk.density", "0.05"}}, 1e-5f},
        Case{"onebit", {{"compressor", "onebit"}}, 0.05f},
        Case{"onebit_blocks", {{"compressor", "onebit"}, {"onebit.block", "64"}}, 0.05f},
        Case{"quantize", {{"compressor", "quantize"}}, 1e-3f},
        Case{"stochastic", {{"compressor", "quantize"}, {"quantize.rounding", "stochastic"}}, 1e-3f},
        Case{"powersgd", {{"compressor", "powersgd"}}, 1e-4f},
        Case{"powersgd_averaged", {{"compressor", "powersgd"}, {"powersgd.error", "averaged"}}, 1e-4f}),
    [](const auto& test) { return test.param.name; });

// A batch gives the bits that one call a tensor gives, whatever the order of the arrays.
TEST(EngineTest, ManyAtOnceEqualsOneByOne) {
  const std::vector<size_t> sizes = {5, 70000, 3000, 1, 100000, 17, 40000};
  const auto run = [&](bool together, const std::string& compressor) {
    std::vector<std::vector<std::vector<float>>> results(2);
    RunRanks(2,
             TestConfig({{"compressor", compressor}, {"dense", "deterministic"}, {"min_elements", "1000"}}),
             [&](Engine& engine) {
               std::vector<std::vector<float>> send;
               std::vector<std::vector<float>> recv;
               std::vector<Call> calls;
               for (size_t i = 0; i < sizes.size(); ++i) {
                 send.push_back(Gradient(engine.rank(), static_cast<int>(i), sizes[i]));
                 recv.emplace_back(sizes[i]);
               }
               for (size_t i = 0; i < sizes.size(); ++i) {
                 const uint32_t id =
                     MustRegister(engine, "t" + std::to_string(i), {static_cast<int64_t>(sizes[i])});
                 calls.push_back({.tensor = id, .send = send[i].data(), .recv = recv[i].data()});
               }
               if (together) {
                 if (engine.rank() == 1) std::reverse(calls.begin(), calls.end());
                 ASSERT_TRUE(engine.Allreduce(calls).ok());
               } else {
                 for (const Call& call : calls) ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
               }
               results[static_cast<size_t>(engine.rank())] = recv;
             });
    EXPECT_EQ(results[0], results[1]);
    return results[0];
  };
  for (const char* compressor : {"none", "topk", "quantize", "onebit"}) {
    EXPECT_EQ(run(true, compressor), run(false, compressor)) << compressor;
  }
}

TEST(EngineTest, OtherConfigurationIsNamedOnEveryRank) {
  std::vector<std::string> messages(3);
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      transport::OpenOptions options;
      options.rank = r;
      options.world_size = 3;
      options.hub = "other_configuration";
      auto group = transport::OpenGroup("inproc", options);
      ASSERT_TRUE(group.ok());
      const auto engine =
          Engine::Open(TestConfig({{"compressor", "topk"}, {"topk.density", r == 2 ? "0.02" : "0.01"}}),
                       *std::move(group));
      ASSERT_EQ(engine.status().code(), absl::StatusCode::kAborted);
      messages[static_cast<size_t>(r)] = std::string(engine.status().message());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(messages[0], HasSubstr("topk.density"));
  EXPECT_THAT(messages[0], HasSubstr("rank 2"));
  EXPECT_EQ(messages[0], messages[1]);
  EXPECT_EQ(messages[0], messages[2]);
}

TEST(EngineTest, OtherTensorIsNamedAndTheGroupStaysUsable) {
  RunRanks(3, TestConfig({{"compressor", "topk"}}), [](Engine& engine) {
    const uint32_t same = MustRegister(engine, "same", {64});
    std::vector<float> g(64, 1.0f);
    std::vector<float> out(64);
    ASSERT_TRUE(Exchange(engine, same, g, &out).ok());
    const uint32_t id = MustRegister(engine, "fc", {engine.rank() == 1 ? 401 : 400});
    std::vector<float> big(401, 1.0f);
    std::vector<float> result(401);
    const absl::Status status = Exchange(engine, id, big, &result);
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0 has \"tensor 1: 'fc' float32 [400]\""));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 has \"tensor 1: 'fc' float32 [401]\""));
  });
}

TEST(EngineTest, CallsInAnotherOrderAreNamedAndNothingIsLost) {
  for (const char* compressor : {"none", "topk", "quantize"}) {
    RunRanks(2, TestConfig({{"compressor", compressor}, {"topk.density", "0.99"}}), [](Engine& engine) {
      const uint32_t a = MustRegister(engine, "a", {64});
      const uint32_t b = MustRegister(engine, "b", {64});
      std::vector<float> g(64, 1.0f);
      std::vector<float> out(64);
      for (int step = 0; step < 3; ++step) {
        const absl::Status status = Exchange(engine, step == 1 && engine.rank() == 1 ? b : a, g, &out);
        if (step != 1) {
          ASSERT_TRUE(status.ok()) << status;
          EXPECT_EQ(out[7], 1.0f);
        } else {
          EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
          EXPECT_THAT(std::string(status.message()), HasSubstr("exchange of 'a' (tensor 0)"));
          EXPECT_THAT(std::string(status.message()), HasSubstr("exchange of 'b' (tensor 1)"));
        }
        ASSERT_TRUE(engine.Step(1.0).ok());
      }
    });
  }
}

// Dense while everything is sent, then half, then what the plan says; with or without terse_step.
TEST(EngineTest, DensityWarmsUpByStepsOrByExchanges) {
  const wire::Config config = TestConfig({{"compressor", "topk"},
                                          {"topk.density", "0.01"},
                                          {"topk.warmup_steps", "4"},
                                          {"topk.warmup_density", "[1, 0.5]"}});
  for (const bool steps : {true, false}) {
    RunRanks(2, config, [steps](Engine& engine) {
      const uint32_t tensor = MustRegister(engine, "a", {5000});
      const std::vector<float> g(5000, 1.0f);
      std::vector<float> out(5000);
      const std::ptrdiff_t unsent[] = {0, 0, 2500, 2500, 4950, 4950};
      for (const std::ptrdiff_t zeros : unsent) {
        ASSERT_TRUE(Exchange(engine, tensor, g, &out).ok());
        EXPECT_EQ(std::count(out.begin(), out.end(), 0.0f), zeros);
        if (steps) {
          ASSERT_TRUE(engine.Step(1.0).ok());
        }
      }
    });
  }
}

TEST(EngineTest, OtherAppliedIsNamed) {
  RunRanks(2, TestConfig({{"compressor", "none"}}), [](Engine& engine) {
    const absl::Status status = engine.Step(engine.rank() == 0 ? 1.0 : 0.0);
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("terse_step(applied = 0)"));
    EXPECT_EQ(engine.step(), 0u);
    EXPECT_TRUE(engine.Step(1.0).ok());
  });
}

TEST(EngineTest, NonFiniteReachesEveryRankAndPoisonsNothing) {
  for (const char* compressor : {"fp16", "topk", "onebit", "quantize"}) {
    SCOPED_TRACE(compressor);
    RunRanks(3, TestConfig({{"compressor", compressor}, {"topk.density", "0.1"}}), [](Engine& engine) {
      constexpr size_t kN = 300;
      const uint32_t id = MustRegister(engine, "w", {kN});
      std::vector<float> out(kN);
      std::vector<double> left(kN, 0.0);
      for (int step = 0; step < 300; ++step) {
        std::vector<float> g(kN, 0.0f);
        if (step < 4) {
          g = Gradient(engine.rank(), step, kN);
          for (int r = 0; r < 3; ++r) {
            const std::vector<float> of = Gradient(r, step, kN);
            for (size_t i = 0; i < kN; ++i) left[i] += step == 2 && r == 1 && i == 11 ? 0.0 : of[i] / 3.0;
          }
        }
        if (step == 2 && engine.rank() == 1) g[11] = std::numeric_limits<float>::infinity();
        ASSERT_TRUE(Exchange(engine, id, g, &out).ok());
        const bool bad = step == 2;
        for (const float x : out) ASSERT_EQ(std::isnan(x), bad);
        ASSERT_TRUE(engine.Step(bad ? 0.0 : 1.0).ok());
        for (size_t i = 0; !bad && i < kN; ++i) left[i] -= out[i];
      }
      for (const double x : left) EXPECT_NEAR(x, 0.0, 0.2);
      EXPECT_EQ(engine.step(), 299u);
    });
  }
}

TEST(EngineTest, AsynchronousCallsInAnyOrder) {
  RunRanks(3, TestConfig({{"compressor", "quantize"}}), [](Engine& engine) {
    constexpr uint32_t kTensors = 5;
    std::vector<std::vector<float>> send(kTensors);
    std::vector<std::vector<float>> recv(kTensors, std::vector<float>(512));
    for (uint32_t t = 0; t < kTensors; ++t) {
      MustRegister(engine, "t" + std::to_string(t), {512});
      send[t].assign(512, static_cast<float>(t + 1));
    }
    for (int step = 0; step < 3; ++step) {
      for (uint32_t i = 0; i < kTensors; ++i) {
        const uint32_t t = (i * 2 + static_cast<uint32_t>(engine.rank())) % kTensors;
        ASSERT_TRUE(engine.Submit({.tensor = t, .send = send[t].data(), .recv = recv[t].data()}).ok());
      }
      for (uint32_t i = 0; i < kTensors; ++i) {
        const uint32_t t = (i + 3 * static_cast<uint32_t>(engine.rank())) % kTensors;
        if (engine.rank() == 0) {
          absl::StatusOr<bool> done = false;
          while (done.ok() && !*done) done = engine.Test(t);
          ASSERT_TRUE(done.ok()) << done.status();
        } else {
          ASSERT_TRUE(engine.Wait(t).ok());
        }
        EXPECT_EQ(recv[t][100], static_cast<float>(t + 1));
      }
      ASSERT_TRUE(engine.Step(1.0).ok());
    }
  });
}

TEST(EngineTest, WaitingForDifferentTensorsIsAnErrorNotAHang) {
  RunRanks(2, TestConfig({{"compressor", "none"}}), [](Engine& engine) {
    MustRegister(engine, "a", {8});
    MustRegister(engine, "b", {8});
    std::vector<float> g(8);
    const auto mine = static_cast<uint32_t>(engine.rank());
    ASSERT_TRUE(engine.Submit({.tensor = mine, .send = g.data(), .recv = g.data()}).ok());
    const absl::Status status = engine.Wait(mine);
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("terse_wait for 'a'"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("terse_wait for 'b'"));
  });
}

TEST(EngineTest, OverlappingBuffersAreRefused) {
  RunRanks(1, TestConfig({}), [](Engine& engine) {
    const uint32_t a = MustRegister(engine, "a", {8});
    const uint32_t b = MustRegister(engine, "b", {8});
    std::vector<float> memory(32);
    float* const x = memory.data();
    const auto refused = [&](std::vector<Call> calls) {
      return engine.Allreduce(calls).code() == absl::StatusCode::kInvalidArgument;
    };
    EXPECT_TRUE(refused({{.tensor = a, .send = x, .recv = x + 4}}));
    EXPECT_TRUE(refused({{.tensor = a, .send = x, .recv = x}, {.tensor = b, .send = x + 4, .recv = x + 16}}));
    EXPECT_TRUE(
        refused({{.tensor = a, .send = x, .recv = x + 8}, {.tensor = b, .send = x + 24, .recv = x + 8}}));
    EXPECT_FALSE(
        refused({{.tensor = a, .send = x, .recv = x}, {.tensor = b, .send = x + 8, .recv = x + 16}}));
    // Two tensors may read the same gradient.
    EXPECT_FALSE(
        refused({{.tensor = a, .send = x, .recv = x + 8}, {.tensor = b, .send = x, .recv = x + 16}}));
  });
}

TEST(EngineTest, ALostRankBreaksTheGroupInBoundedTime) {
  RunRanks(3, TestConfig({{"compressor", "topk"}}), [](Engine& engine) {
    const uint32_t id = MustRegister(engine, "a", {64});
    std::vector<float> g(64, 1.0f);
    std::vector<float> out(64);
    ASSERT_TRUE(Exchange(engine, id, g, &out).ok());
    if (engine.rank() == 1) return;  // gone without a word
    const absl::Status lost = Exchange(engine, id, g, &out);
    EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
    EXPECT_THAT(std::string(lost.message()), HasSubstr("rank 1"));
    EXPECT_EQ(Exchange(engine, id, g, &out), lost);
    EXPECT_EQ(engine.Step(1.0), lost);
    EXPECT_TRUE(engine.Close().ok());
  });
}

TEST(EngineTest, ReportTellsPathReasonAndBytes) {
  RunRanks(2, TestConfig({{"compressor", "onebit"}, {"min_elements", "100"}}), [](Engine& engine) {
    const uint32_t big = MustRegister(engine, "big", {1024});
    const uint32_t small = MustRegister(engine, "small", {10});
    std::vector<float> g(1024, 1.0f);
    std::vector<float> out(1024);
    ASSERT_TRUE(Exchange(engine, big, g, &out).ok());
    ASSERT_TRUE(Exchange(engine, small, g, &out).ok());
    const auto report = nlohmann::json::parse(engine.Report());
    EXPECT_EQ(report["tensors"][0]["codec"], "onebit");
    // Half of the signs and a scale to the other rank, then the own half to it.
    EXPECT_EQ(report["tensors"][0]["bytes_sent"], 2 * (wire::kFrameHeaderBytes + 4 + 1024 / 2 / 8));
    EXPECT_EQ(report["tensors"][0]["dense_bytes"], 4096);
    EXPECT_EQ(report["tensors"][1]["reason"], "below min_elements (10 < 100)");
    EXPECT_EQ(report["tensors"][1]["bytes_sent"], 40);
    EXPECT_EQ(report["compressed_tensors"]["dense_bytes"], 4096);
    EXPECT_GT(report["wire_bytes"], report["bytes_sent"]) << "agreements count too";
  });
}

}  // namespace
}  // namespace terse::engine
