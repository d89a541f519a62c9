// SPDX-License-Identifier: Apache-2.0
//
// Sparse reduce: what it puts on the wire, what its regions are worth under skewed gradients, and where it
// must give what all-gather gives. (sparse_reduce_reference_test: every number; conservation_test,
// exchange_fault_test: nothing is lost.)
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using Vector = std::vector<float>;
using Json = nlohmann::json;

// Where gradients are large, and of which ranks.
enum class Skew : uint8_t { kNone, kOwnPart, kNextPart, kHead, kAlike, kLargeHead };

struct Case {
  std::string name;
  Skew skew;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

constexpr size_t kN = 200'000;
constexpr double kDensity = 0.02;
constexpr size_t kK = 4000;

Vector Gradient(Skew skew, int rank, int ranks, int step) {
  std::mt19937 random(static_cast<uint32_t>(101 * (skew == Skew::kAlike ? 0 : rank) + step + 1));
  std::normal_distribution<float> normal;
  Vector g(kN);
  for (size_t i = 0; i < kN; ++i) {
    g[i] = normal(random);
    const auto part = static_cast<int>(i * static_cast<size_t>(ranks) / kN);
    const bool large = (skew == Skew::kOwnPart && part == rank) ||
                       (skew == Skew::kNextPart && part == (rank + 1) % ranks) ||
                       (skew == Skew::kHead && i < kN / 30);
    if (large) g[i] *= 1000.0f;
    // Sums in one place that are greater than all others, of elements that are not.
    if (skew == Skew::kLargeHead && i < kN / 10) g[i] = 3.0f + std::fabs(g[i]);
  }
  return g;
}

// One report a rank of `steps` steps.
std::vector<Json> Reports(int ranks, const std::vector<std::pair<std::string, std::string>>& settings,
                          int steps, const std::function<Vector(int rank, int step)>& gradient) {
  std::vector<Json> reports(static_cast<size_t>(ranks));
  RunRanks(ranks, TestConfig(settings), [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {static_cast<int64_t>(kN)}).ok());
    Vector out(kN);
    for (int step = 0; step < steps; ++step) {
      const Vector g = gradient(engine.rank(), step);
      ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = g.data(), .recv = out.data()}}).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
    }
    reports[static_cast<size_t>(engine.rank())] = Json::parse(engine.Report());
  });
  return reports;
}

class SparseReduce : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Skewed, SparseReduce,
                         ::testing::Values(Case{"none", Skew::kNone}, Case{"own_part", Skew::kOwnPart},
                                           Case{"next_part", Skew::kNextPart}, Case{"head", Skew::kHead},
                                           Case{"alike", Skew::kAlike}, Case{"large_head", Skew::kLargeHead}),
                         [](const auto& instance) { return instance.param.name; });

// A word is 4 bytes. Whatever is sent counts: frames, samples, headers of payloads.
TEST_P(SparseReduce, BytesOfEachRankStayWithinSixKWords) {
  constexpr int kSteps = 5;
  for (const std::string index : {"u32", "rice"}) {
    for (const int ranks : {2, 3, 4, 5, 6, 7, 8}) {
      SCOPED_TRACE(index + ", " + std::to_string(ranks) + " ranks");
      const std::vector<Json> reports =
          Reports(ranks,
                  {{"compressor", "topk"},
                   {"topk.density", std::to_string(kDensity)},
                   {"topk.index", index},
                   {"topk.exchange", "sparse_reduce"}},
                  kSteps, [&](int rank, int step) { return Gradient(GetParam().skew, rank, ranks, step); });
      const double peers = ranks - 1;
      const double bound = 4 * 6.0 * kK * peers / ranks;
      for (const Json& report : reports) {
        EXPECT_EQ(report["tensors"][0]["exchange"], "sparse-reduce");
        const double bytes = report["tensors"][0]["bytes_sent"];
        EXPECT_LE(bytes / kSteps, bound);
        EXPECT_GE(bytes / kSteps, 0.1 * bound);
        const double agreements = report["wire_bytes"].get<double>() - bytes;
        EXPECT_LE(agreements / kSteps, peers * 1000) << "what is not a tensor's";
      }
      const Json& build_up = reports[0]["tensors"][0]["build_up"];
      EXPECT_EQ(build_up["exchanges"], kSteps);
      const double selected = build_up["selected"];
      const double distinct = build_up["distinct"];
      EXPECT_EQ(selected, double{kSteps} * kK * ranks);
      EXPECT_LE(build_up["busiest"], 1.3 * selected / ranks) << "no owner has much more to do than others";
      EXPECT_LE(build_up["accepted"], distinct);
      // Entries of about 5 or of 8 bytes, all of which go to other owners in `next_part`.
      const double fit = index == "rice" ? 3.3 : GetParam().skew == Skew::kNextPart ? 1.0 : 1.8;
      EXPECT_GE(build_up["accepted"], 0.9 * std::min(distinct, fit * kSteps * kK)) << "the bound is used up";
      EXPECT_GE(selected, distinct);
    }
  }
}

TEST(BuildUp, IsTheSameByBothExchanges) {
  struct Expected {
    Skew skew;
    double least, most;  // distinct positions, of what was selected
  };
  // Alike: every rank's k positions are the same. In parts of their own: none is.
  for (const auto& [skew, least, most] : {Expected{Skew::kAlike, 0.25, 0.25}, Expected{Skew::kOwnPart, 1, 1},
                                          Expected{Skew::kNone, 0.9, 0.99}}) {
    Json found[2];
    double distinct = 0;
    for (const bool sparse : {false, true}) {
      const Json report =
          Reports(4,
                  {{"compressor", "topk"},
                   {"topk.density", std::to_string(kDensity)},
                   {"topk.exchange", sparse ? "sparse_reduce" : "all_gather"}},
                  1, [skew = skew](int rank, int step) { return Gradient(skew, rank, 4, step); })[0];
      found[sparse] = report["tensors"][0]["build_up"];
      EXPECT_EQ(found[sparse]["selected"], 4 * kK);
      distinct = found[sparse]["distinct"];
      EXPECT_GE(distinct, least * 4 * kK);
      EXPECT_LE(distinct, most * 4 * kK);
    }
    EXPECT_EQ(found[0]["distinct"], found[1]["distinct"]);
    EXPECT_EQ(found[0]["accepted"], found[0]["distinct"]);
    EXPECT_LE(found[1]["accepted"], distinct);
    EXPECT_GE(found[1]["accepted"], 0.85 * distinct) << "nearly all fit, at four ranks";
  }
}

// Ranks that select the same positions have k of them together: all are accepted.
TEST(SparseReduce, IsAllGatherWhereNothingIsRejected) {
  for (const char* values : {"fp32", "bf16"}) {
    for (const char* method : {"allreduce", "dgc"}) {
      for (const int ranks : {2, 3, 5}) {
        Vector results[2];
        for (const bool sparse : {false, true}) {
          RunRanks(
              ranks,
              TestConfig({{"method", method},
                          {"compressor", "topk"},
                          {"topk.density", "0.02"},
                          {"dgc.density", "0.02"},
                          {"topk.values", values},
                          {"topk.exchange", sparse ? "sparse_reduce" : "all_gather"}}),
              [&](Engine& engine) {
                ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {static_cast<int64_t>(kN)}).ok());
                Vector out(kN);
                for (int step = 0; step < 4; ++step) {
                  Vector g = Gradient(Skew::kAlike, 0, ranks, step);
                  for (float& x : g) x *= static_cast<float>(1 << engine.rank());
                  const Call call{.tensor = 0, .send = g.data(), .recv = out.data()};
                  ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
                  ASSERT_TRUE(engine.Step(step == 2 ? 0.0 : 1.0).ok());
                }
                if (engine.rank() == 0) results[sparse] = out;
              });
        }
        EXPECT_EQ(results[0], results[1]) << method << ", " << ranks << " ranks, " << values;
      }
    }
  }
}

// Fewer entries than ranks, and tensors smaller than a region: nothing hangs, everything arrives at last.
TEST(SparseReduce, FewerEntriesThanRanks) {
  constexpr size_t kFew = 3;
  RunRanks(5,
           TestConfig({{"compressor", "topk"}, {"topk.density", "0.1"}, {"topk.exchange", "sparse_reduce"}}),
           [](Engine& engine) {
             ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {static_cast<int64_t>(kFew)}).ok());
             Vector sum(kFew);
             for (int step = 0; step < 40; ++step) {
               const auto rank = static_cast<float>(engine.rank());
               const Vector g = step == 0 ? Vector{1 + rank, -10 * rank, 100} : Vector(kFew);
               Vector out(kFew);
               ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = g.data(), .recv = out.data()}}).ok());
               ASSERT_TRUE(engine.Step(1.0).ok());
               for (size_t i = 0; i < kFew; ++i) sum[i] += out[i];
             }
             const Vector expected = {3, -20, 100};
             for (size_t i = 0; i < kFew; ++i)
               EXPECT_NEAR(sum[i], expected[i], 1e-5 * std::fabs(expected[i]));
           });
}

TEST(SparseReduce, SumsThatOverflowAreWithheldEverywhereAndKept) {
  RunRanks(3,
           TestConfig({{"compressor", "topk"},
                       {"topk.density", "0.1"},
                       {"reduce", "sum"},
                       {"topk.exchange", "sparse_reduce"}}),
           [](Engine& engine) {
             ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {100}).ok());
             Vector g(100);
             g[42] = 3e38f;
             Vector out(100);
             const Call call{.tensor = 0, .send = g.data(), .recv = out.data()};
             ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
             for (const float x : out) ASSERT_TRUE(std::isnan(x));
             ASSERT_TRUE(engine.Step(1.0).ok());
             g[42] = -3e38f + 1e33f;
             ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
             EXPECT_EQ(out[42], 3 * (3e38f + g[42])) << "what had been withheld was still there";
           });
}

TEST(SparseReduce, ManyTensorsShareTheRounds) {
  RunRanks(
      4, TestConfig({{"compressor", "topk"}, {"topk.density", "0.05"}, {"topk.exchange", "sparse_reduce"}}),
      [](Engine& engine) {
        std::vector<Vector> g;
        std::vector<Vector> alone;
        std::vector<Vector> together;
        std::vector<Call> calls;
        std::mt19937 random(static_cast<uint32_t>(engine.rank()));
        std::normal_distribution<float> normal;
        for (uint32_t t = 0; t < 6; ++t) {
          const size_t n = 100 + 777 * t;
          for (const char* kind : {"a", "b"}) {
            ASSERT_TRUE(
                engine.Register(kind + std::to_string(t), wire::DType::kFloat32, {static_cast<int64_t>(n)})
                    .ok());
          }
          g.emplace_back(n);
          for (float& x : g.back()) x = normal(random);
          alone.emplace_back(n);
          together.emplace_back(n);
        }
        for (uint32_t t = 0; t < 6; ++t) {
          const Call call{.tensor = 2 * t, .send = g[t].data(), .recv = alone[t].data()};
          ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
          calls.push_back({.tensor = 2 * t + 1, .send = g[t].data(), .recv = together[t].data()});
        }
        ASSERT_TRUE(engine.Allreduce(calls).ok());
        EXPECT_EQ(alone, together);
      });
}

}  // namespace
}  // namespace terse::engine
