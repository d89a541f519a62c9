// SPDX-License-Identifier: Apache-2.0
//
// Policies that decide while a job trains, through the engine: all ranks go over to the same rows at the same
// step, the rows are those that measured errors ask for, and nothing of a gradient is lost.
#include <cmath>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::HasSubstr;

struct Layer {
  std::vector<int64_t> shape;
  double scale;
};
// One that stays dense for its name, a small one of large gradients, a large one of small gradients.
const std::vector<Layer> kLayers = {{{64}, 1}, {{32, 32}, 20}, {{128, 64}, 0.1}, {{64, 64}, 1}};

size_t ElementsOf(const Layer& layer) {
  size_t n = 1;
  for (const int64_t extent : layer.shape) n *= static_cast<size_t>(extent);
  return n;
}

struct Result {
  std::vector<std::string> rows;  // by tensor, after the last step
  nlohmann::json report;
  std::vector<double> applied;   // sums over all steps, of all tensors
  std::vector<double> gradient;  // the same of what went in, reduced
};

// Steps with gradients of normal noise; by rank.
std::vector<Result> Train(int ranks, const std::vector<std::pair<std::string, std::string>>& settings,
                          int steps, const std::function<void(Engine&, int)>& before_step = {}) {
  std::vector<std::pair<std::string, std::string>> all = {
      {"exclude", "dense*"}, {"policy.interval", "8"}, {"policy.window", "4"}};
  all.insert(all.end(), settings.begin(), settings.end());
  std::vector<Result> results(static_cast<size_t>(ranks));
  std::mutex mutex;
  std::vector<double> total;
  RunRanks(ranks, TestConfig(all), [&](Engine& engine) {
    Result result;
    std::mt19937 random(static_cast<uint32_t>(engine.rank()) + 1);
    std::normal_distribution<float> normal;
    std::vector<std::vector<float>> gradients;
    std::vector<std::vector<float>> out;
    for (size_t l = 0; l < kLayers.size(); ++l) {
      const std::string name = l == 0 ? "dense" : "layer" + std::to_string(l);
      ASSERT_TRUE(engine.Register(name, wire::DType::kFloat32, kLayers[l].shape).ok());
      gradients.emplace_back(ElementsOf(kLayers[l]));
      out.emplace_back(ElementsOf(kLayers[l]));
    }
    std::vector<double> mine;
    for (int step = 0; step < steps; ++step) {
      std::vector<Call> calls;
      for (size_t l = 0; l < kLayers.size(); ++l) {
        for (float& x : gradients[l]) x = static_cast<float>(kLayers[l].scale) * normal(random);
        calls.push_back(
            {.tensor = static_cast<uint32_t>(l), .send = gradients[l].data(), .recv = out[l].data()});
      }
      if (before_step) before_step(engine, step);
      const absl::Status status = engine.Allreduce(calls);
      ASSERT_TRUE(status.ok()) << status;
      size_t at = 0;
      for (size_t l = 0; l < kLayers.size(); ++l) {
        mine.resize(std::max(mine.size(), at + out[l].size()));
        result.applied.resize(mine.size());
        for (size_t i = 0; i < out[l].size(); ++i, ++at) {
          mine[at] += static_cast<double>(gradients[l][i]) / engine.size();
          result.applied[at] += static_cast<double>(out[l][i]);
        }
      }
      ASSERT_TRUE(engine.Step(1.0).ok());
    }
    for (size_t l = 0; l < kLayers.size(); ++l)
      result.rows.push_back(wire::RowText(engine.row(static_cast<uint32_t>(l))));
    result.report = nlohmann::json::parse(engine.Report());
    const std::lock_guard<std::mutex> lock(mutex);
    total.resize(mine.size());
    for (size_t i = 0; i < mine.size(); ++i) total[i] += mine[i];
    results[static_cast<size_t>(engine.rank())] = std::move(result);
  });
  for (Result& result : results) result.gradient = total;
  return results;
}

TEST(Adaptation, AllRanksGoOverToTheSameRows) {
  for (const char* codec : {"quantize", "topk", "powersgd"}) {
    SCOPED_TRACE(codec);
    const std::vector<Result> results =
        Train(3, {{"compressor", codec}, {"policy.name", "lgreco"}, {"topk.density", "0.05"}}, 20);
    for (const Result& result : results) {
      EXPECT_EQ(result.rows, results[0].rows);
      const nlohmann::json& policy = result.report.at("policy");
      EXPECT_EQ(policy.at("decisions"), 2);
      EXPECT_GE(policy.at("plans"), 1);
      const nlohmann::json& first = policy.at("events").at(0);
      EXPECT_EQ(first.at("step"), 8);
      EXPECT_TRUE(first.at("changed"));
      EXPECT_LE(first.at("error"), first.at("budget"));
      EXPECT_LT(first.at("bytes"), first.at("uniform_bytes"));
      EXPECT_GT(first.at("lower_bound"), 0);
      EXPECT_LE(first.at("lower_bound"), first.at("bytes"));
      EXPECT_FALSE(first.at("changes").empty());
      EXPECT_EQ(result.report.at("policy").at("events"), results[0].report.at("policy").at("events"));
    }
    EXPECT_THAT(results[0].report.at("tensors").at(2).at("reason").get<std::string>(), HasSubstr("lgreco: "));
    EXPECT_THAT(results[0].report.at("tensors").at(0).at("reason").get<std::string>(), HasSubstr("excluded"));
  }
}

TEST(Adaptation, TheLargeLayerOfSmallGradientsGetsFewerBits) {
  const std::vector<Result> results = Train(2, {{"policy.name", "lgreco"}}, 8);
  const std::string small = results[0].report.at("policy").at("events").at(0).at("changes").dump();
  EXPECT_THAT(small, HasSubstr(R"({"from":"quantize, 4 bits","tensor":"layer2","to":"quantize, 2 bits"})"));
  EXPECT_THAT(results[0].rows[2], HasSubstr("bits 2")) << results[0].rows[2];
}

TEST(Adaptation, EveryRankMeasures) {
  const std::vector<Result> results = Train(4, {{"policy.name", "lgreco"}}, 8);
  for (const Result& result : results) EXPECT_GT(result.report.at("policy").at("measure_ms"), 0);
}

TEST(Adaptation, NothingOfAGradientIsLostWhenFamiliesChange) {
  for (const char* name : {"lgreco", "accordion", "lgreco_accordion"}) {
    SCOPED_TRACE(name);
    std::vector<std::pair<std::string, std::string>> settings = {{"compressor", "topk"},
                                                                 {"topk.density", "0.1"},
                                                                 {"policy.name", name},
                                                                 {"policy.families", "quantize, powersgd"}};
    // In the end everything drains.
    const std::vector<Result> results = Train(
        3, settings, 300, [](Engine& engine, int step) { EXPECT_TRUE(engine.SetExact(step >= 40).ok()); });
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < results[0].gradient.size(); ++i) {
      difference += std::pow(results[0].applied[i] - results[0].gradient[i], 2);
      norm += std::pow(results[0].gradient[i], 2);
    }
    EXPECT_LT(std::sqrt(difference / norm), 1e-4);
    EXPECT_EQ(results[1].applied, results[0].applied);
  }
}

TEST(Adaptation, TheSameJobGetsTheSamePlans) {
  const auto run = [] { return Train(2, {{"policy.name", "lgreco"}, {"policy.families", "topk"}}, 24); };
  const std::vector<Result> first = run();
  const std::vector<Result> second = run();
  EXPECT_EQ(first[0].rows, second[0].rows);
  EXPECT_EQ(first[0].applied, second[0].applied);
  EXPECT_EQ(first[0].report.at("policy").at("events"), second[0].report.at("policy").at("events"));
}

TEST(Adaptation, AStaticPolicyMeasuresNothing) {
  for (const auto& [ranks, name] : {std::pair(2, "static"), std::pair(1, "lgreco")}) {
    const std::vector<Result> results = Train(ranks, {{"policy.name", name}}, 8);
    EXPECT_FALSE(results[0].report.contains("policy"));
    EXPECT_EQ(results[0].report.at("tensors").at(3).at("codec"), ranks == 1 ? "none" : "quantize");
  }
}

TEST(Adaptation, WithoutAGradientNothingIsDecided) {
  RunRanks(
      2, TestConfig({{"policy.name", "lgreco"}, {"policy.interval", "2"}, {"policy.window", "2"}}),
      [](Engine& engine) {
        ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {64, 64}).ok());
        std::vector<float> zeros(4096);
        for (int step = 0; step < 4; ++step) {
          ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = zeros.data(), .recv = zeros.data()}}).ok());
          ASSERT_TRUE(engine.Step(1.0).ok());
        }
        const nlohmann::json report = nlohmann::json::parse(engine.Report());
        EXPECT_EQ(report.at("policy").at("plans"), 0);
        EXPECT_EQ(report.at("policy").at("events").at(1).at("why"), "no gradient to decide from");
        EXPECT_EQ(engine.plan_version(), 0u);
      });
}

TEST(Adaptation, GradientsThatAreNotFiniteAndSkippedStepsDoNotDisturb) {
  RunRanks(2, TestConfig({{"policy.name", "lgreco"}, {"policy.interval", "4"}, {"policy.window", "4"}}),
           [](Engine& engine) {
             ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {64, 64}).ok());
             ASSERT_TRUE(engine.Register("v", wire::DType::kFloat16, {64, 128}).ok());
             std::vector<float> w(4096);
             std::vector<uint16_t> v(8192, 0x3c00);
             for (int step = 0; step < 12; ++step) {
               for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 17) - 8.0f;
               if (step % 3 == 0) w[5] = std::nanf("");
               ASSERT_TRUE(engine
                               .Allreduce({{.tensor = 0, .send = w.data(), .recv = w.data()},
                                           {.tensor = 1, .send = v.data(), .recv = v.data()}})
                               .ok());
               ASSERT_TRUE(engine.Step(step % 3 == 0 ? 0.0 : 1.0).ok());
             }
             const nlohmann::json report = nlohmann::json::parse(engine.Report());
             EXPECT_EQ(report.at("policy").at("decisions"), 2);
           });
}

}  // namespace
}  // namespace terse::engine
