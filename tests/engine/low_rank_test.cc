// SPDX-License-Identifier: Apache-2.0
//
// The exchange in rounds, with the codec powersgd: engine, transport and codec together.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::HasSubstr;
using Vector = std::vector<float>;
using Settings = std::vector<std::pair<std::string, std::string>>;

size_t Elements(const std::vector<int64_t>& shape) {
  size_t n = 1;
  for (const int64_t extent : shape) n *= static_cast<size_t>(extent);
  return n;
}

Vector Gradient(int rank, int step, size_t n) {
  std::mt19937 random(static_cast<uint32_t>(1000 * rank + step + 17));
  std::normal_distribution<float> normal;
  Vector g(n);
  for (float& x : g) x = normal(random);
  return g;
}

wire::Config Config(Settings more = {}) {
  more.insert(more.begin(), {{"compressor", "powersgd"}, {"dense", "deterministic"}});
  return TestConfig(more);
}

uint32_t MustRegister(Engine& engine, const std::string& name, const std::vector<int64_t>& shape,
                      wire::DType dtype = wire::DType::kFloat32) {
  const absl::StatusOr<uint32_t> id = engine.Register(name, dtype, shape);
  EXPECT_TRUE(id.ok()) << id.status();
  return id.value_or(0);
}

Vector Exchange(Engine& engine, uint32_t tensor, const Vector& send) {
  Vector recv(send.size());
  const Call call{.tensor = tensor, .send = send.data(), .recv = recv.data()};
  const absl::Status status = engine.Allreduce({&call, 1});
  EXPECT_TRUE(status.ok()) << status;
  return recv;
}

bool AllNan(const Vector& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isnan(x); });
}

// Matrices of odd shapes, a convolution's kernel, and what goes dense beside them.
const std::vector<std::vector<int64_t>> kShapes = {{31, 47}, {100},  {16, 3, 5, 5}, {301, 11},
                                                   {},       {6, 6}, {64, 64}};

// Results of all tensors over some steps with a skip and a clip, one after the other.
Vector Train(Engine& engine, bool together) {
  std::vector<uint32_t> ids;
  for (const auto& shape : kShapes)
    ids.push_back(MustRegister(engine, "t" + std::to_string(ids.size()), shape));
  Vector all;
  for (int step = 0; step < 5; ++step) {
    std::vector<Vector> send;
    std::vector<Vector> recv;
    std::vector<Call> calls;
    for (size_t t = 0; t < ids.size(); ++t) {
      send.push_back(Gradient(engine.rank(), 10 * step + static_cast<int>(t), Elements(kShapes[t])));
      recv.emplace_back(send.back().size());
    }
    for (size_t t = 0; t < ids.size(); ++t) {
      calls.push_back({.tensor = ids[t], .send = send[t].data(), .recv = recv[t].data()});
    }
    if (together) {
      if (engine.rank() % 2 == 1) std::reverse(calls.begin(), calls.end());
      EXPECT_TRUE(engine.Allreduce(calls).ok());
    } else {
      for (const Call& call : calls) EXPECT_TRUE(engine.Allreduce({&call, 1}).ok());
    }
    EXPECT_TRUE(engine.Step(step == 2 ? 0.0 : (step == 3 ? 0.5 : 1.0)).ok());
    for (const Vector& result : recv) all.insert(all.end(), result.begin(), result.end());
  }
  return all;
}

TEST(LowRankTest, RanksAgreeAndABatchEqualsOneByOne) {
  for (const char* error : {"local", "averaged"}) {
    for (const int ranks : {1, 2, 3, 4, 5}) {
      SCOPED_TRACE(std::string(error) + ", ranks: " + std::to_string(ranks));
      std::vector<Vector> results[2];
      for (const bool together : {false, true}) {
        results[together].resize(static_cast<size_t>(ranks));
        RunRanks(ranks, Config({{"powersgd.error", error}, {"powersgd.rank", "3"}}), [&](Engine& engine) {
          results[together][static_cast<size_t>(engine.rank())] = Train(engine, together);
        });
        for (const Vector& result : results[together]) EXPECT_EQ(result, results[together][0]);
      }
      EXPECT_EQ(results[0][0], results[1][0]);
    }
  }
}

// The native all-reduce sums in an order of its own; the ranks agree all the same.
TEST(LowRankTest, RanksAgreeOverTheNativeSum) {
  std::vector<Vector> results(4);
  RunRanks(4, TestConfig({{"compressor", "powersgd"}}),
           [&](Engine& engine) { results[static_cast<size_t>(engine.rank())] = Train(engine, true); });
  for (const Vector& result : results) EXPECT_EQ(result, results[0]);
}

TEST(LowRankTest, WhatHasNoSmallerFactorsGoesDenseAndSaysSo) {
  RunRanks(2, Config({{"powersgd.rank", "4"}}), [](Engine& engine) {
    MustRegister(engine, "vector", {1000});
    MustRegister(engine, "small", {8, 8});
    MustRegister(engine, "barely", {9, 8});
    MustRegister(engine, "conv", {64, 3, 7, 7});
    const auto tensors = nlohmann::json::parse(engine.Report()).at("tensors");
    EXPECT_EQ(tensors[0]["codec"], "none");
    EXPECT_EQ(tensors[0]["reason"], "factors of rank 1 are not smaller (1000 x 1: 1001 of 1000 floats)");
    EXPECT_EQ(tensors[1]["codec"], "none");
    EXPECT_EQ(tensors[1]["reason"], "factors of rank 4 are not smaller (8 x 8: 64 of 64 floats)");
    EXPECT_EQ(tensors[2]["codec"], "powersgd");
    EXPECT_EQ(tensors[2]["exchange"], "low-rank");
    EXPECT_EQ(tensors[3]["codec"], "powersgd");
  });
}

// 2 (N - 1) / N of the floats of both rounds and of the flags, and nothing else but agreements.
TEST(LowRankTest, BytesAreThoseOfTheFactors) {
  RunRanks(4, TestConfig({{"compressor", "powersgd"}}), [](Engine& engine) {
    const uint32_t a = MustRegister(engine, "a", {400, 200});
    const uint32_t b = MustRegister(engine, "b", {100, 3, 4, 4});
    Exchange(engine, a, Gradient(engine.rank(), 0, 80000));
    Exchange(engine, b, Gradient(engine.rank(), 1, 4800));
    const auto report = nlohmann::json::parse(engine.Report());
    EXPECT_EQ(report["tensors"][0]["bytes_sent"], 2 * 3 * 4 * (4 * 400 + 1) / 4 + 2 * 3 * 4 * 4 * 200 / 4);
    EXPECT_EQ(report["tensors"][1]["bytes_sent"], 2 * 3 * 4 * (4 * 100 + 1) / 4 + 2 * 3 * 4 * 4 * 48 / 4);
    EXPECT_EQ(report["tensors"][0]["dense_bytes"], 2 * 3 * 4 * 80000 / 4);
    const double own = report["bytes_sent"];
    const double wire = report["wire_bytes"];
    EXPECT_GE(wire, own);
    EXPECT_LE(wire, own + 1000);
  });
}

// A NaN on one rank: NaN for that tensor everywhere, others as ever, and nothing of it is lost or kept.
TEST(LowRankTest, NonFiniteReachesEveryRankAndOnlyItsTensor) {
  for (const char* error : {"local", "averaged"}) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      SCOPED_TRACE(error);
      RunRanks(3, Config({{"powersgd.error", error}}), [&](Engine& engine) {
        constexpr size_t kN = 20 * 30;
        const uint32_t good = MustRegister(engine, "good", {20, 30});
        const uint32_t bad = MustRegister(engine, "bad", {30, 20});
        std::vector<double> left(kN);
        for (int step = 0; step < 150; ++step) {
          Vector g = step < 4 ? Gradient(engine.rank(), step, kN) : Vector(kN);
          Vector h = g;
          for (int r = 0; step < 4 && r < 3; ++r) {
            const Vector of = Gradient(r, step, kN);
            for (size_t i = 0; i < kN; ++i) left[i] += step == 1 && r == 2 && i == 77 ? 0.0 : of[i] / 3.0;
          }
          if (step == 1 && engine.rank() == 2) h[77] = value;
          Vector g_out(kN);
          Vector h_out(kN);
          const std::vector<Call> calls = {{.tensor = good, .send = g.data(), .recv = g_out.data()},
                                           {.tensor = bad, .send = h.data(), .recv = h_out.data()}};
          ASSERT_TRUE(engine.Allreduce(calls).ok());
          for (const float x : g_out) ASSERT_TRUE(std::isfinite(x));
          ASSERT_EQ(AllNan(h_out), step == 1);
          // Whatever is said of the step, a result that was withheld was not applied.
          ASSERT_TRUE(engine.Step(1.0).ok());
          for (size_t i = 0; i < kN && step != 1; ++i) left[i] -= h_out[i];
        }
        for (const double x : left) EXPECT_NEAR(x, 0.0, 1e-3);
      });
    }
  }
}

// Every tensor of a batch may drop out of the second round.
TEST(LowRankTest, ABatchOfNothingButNan) {
  RunRanks(2, Config(), [&](Engine& engine) {
    const uint32_t id = MustRegister(engine, "w", {12, 12});
    const Vector nan(144, std::numeric_limits<float>::quiet_NaN());
    EXPECT_TRUE(AllNan(Exchange(engine, id, nan)));
    ASSERT_TRUE(engine.Step(0.0).ok());
    for (const float x : Exchange(engine, id, Vector(144, 1.0f))) EXPECT_NEAR(x, 1.0f, 1e-5);
  });
}

// A gradient of low rank comes through at once, in every type and form of call.
TEST(LowRankTest, LowRankGradientsAreExact) {
  const auto outer = [](int rank, size_t n, size_t columns) {
    Vector g(n);
    for (size_t i = 0; i < n; ++i) {
      g[i] = static_cast<float>((1 + rank) * (static_cast<int>(i / columns) - 4) *
                                (static_cast<int>(i % columns) - 7));
    }
    return g;
  };
  for (const char* reduce : {"mean", "sum"}) {
    for (const char* feedback : {"true", "false"}) {
      RunRanks(3, Config({{"reduce", reduce}, {"error_feedback", feedback}}), [&](Engine& engine) {
        const float factor = std::string(reduce) == "sum" ? 6.0f : 2.0f;
        const uint32_t id = MustRegister(engine, "w", {10, 16});
        const uint32_t other = MustRegister(engine, "x", {16, 10});
        for (int step = 0; step < 3; ++step) {
          Vector in_place = outer(engine.rank(), 160, 16);
          Vector second = outer(engine.rank(), 160, 10);
          const std::vector<Call> calls = {{.tensor = id, .send = in_place.data(), .recv = in_place.data()},
                                           {.tensor = other, .send = second.data(), .recv = second.data()}};
          ASSERT_TRUE(engine.Allreduce(calls).ok());
          ASSERT_TRUE(engine.Step(1.0).ok());
          const Vector expected = outer(0, 160, 16);
          const Vector expected_second = outer(0, 160, 10);
          for (size_t i = 0; i < 160; ++i) {
            EXPECT_NEAR(in_place[i], factor * expected[i], 1e-3);
            EXPECT_NEAR(second[i], factor * expected_second[i], 1e-3);
          }
        }
        // No gradient on this rank counts as zero.
        Vector out(160);
        const Vector whole = outer(0, 160, 16);
        const Call call{
            .tensor = id, .send = engine.rank() == 1 ? nullptr : whole.data(), .recv = out.data()};
        ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
        for (size_t i = 0; i < 160; ++i) EXPECT_NEAR(out[i], factor / 3 * whole[i], 1e-3);
      });
    }
  }
}

TEST(LowRankTest, BFloat16AndLossScale) {
  RunRanks(2, Config(), [&](Engine& engine) {
    const uint32_t id = MustRegister(engine, "w", {10, 16}, wire::DType::kBFloat16);
    ASSERT_TRUE(engine.SetLossScale(1024.0).ok());
    std::vector<uint16_t> g(160, 0x3f80);  // 1
    ASSERT_TRUE(engine.Allreduce({{.tensor = id, .send = g.data(), .recv = g.data()}}).ok());
    for (const uint16_t x : g) EXPECT_NEAR(x, 0x3f80, 1);
  });
}

// The transport fails between agreement and the end of the rounds: an error on the survivors, in time.
TEST(LowRankTest, ALostRankIsAnError) {
  RunRanks(3, Config(), [](Engine& engine) {
    const uint32_t id = MustRegister(engine, "a", {16, 16});
    const Vector g = Gradient(engine.rank(), 0, 256);
    Exchange(engine, id, g);
    if (engine.rank() == 1) return;
    Vector out(256);
    const Call call{.tensor = id, .send = g.data(), .recv = out.data()};
    const absl::Status lost = engine.Allreduce({&call, 1});
    EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
    EXPECT_THAT(std::string(lost.message()), HasSubstr("rank 1"));
  });
}

}  // namespace
}  // namespace terse::engine
