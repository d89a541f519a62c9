// SPDX-License-Identifier: Apache-2.0
//
// Where a job's plans come from: a controller that runs elsewhere (here one that the test plays), and a file
// that repeats another job's plans.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "proto/wire/plan_history.h"
#include "runtime/controller/link/link.h"
#include "runtime/controller/policy/setting.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Settings = std::vector<std::pair<std::string, std::string>>;

const std::vector<std::pair<std::string, std::vector<int64_t>>> kTensors = {
    {"conv 1", {64, 64}}, {"fc1", {128, 64}}, {"fc2", {64, 32}}};

// What a controller sees of a job, and what it answers.
struct Played {
  std::vector<controller::JobReport> reports;
  std::shared_ptr<const controller::JobDescription> job;
  std::function<std::optional<controller::Order>(const controller::JobReport&)> answer;
};

class PlayedLink final : public controller::Link {
 public:
  explicit PlayedLink(Played* played) : played_(*played) {}
  void Post(std::shared_ptr<const controller::JobDescription> job, controller::JobReport report) override {
    if (job != nullptr) played_.job = std::move(job);
    order_ = played_.answer ? played_.answer(report) : std::nullopt;
    played_.reports.push_back(std::move(report));
  }
  std::optional<controller::Order> Take() override { return std::exchange(order_, std::nullopt); }
  controller::LinkState state() const override {
    return {.connected = true, .what = "played", .reports = played_.reports.size()};
  }

 private:
  Played& played_;
  std::optional<controller::Order> order_;
};

struct Result {
  std::vector<std::string> settings;  // by tensor, after each step
  std::vector<float> parameters;
  nlohmann::json report;
};

// Steps with gradients of normal noise; by rank.
std::vector<Result> Train(const Settings& settings, int steps, Played* played = nullptr, int ranks = 3) {
  Settings all = {{"policy.interval", "4"}, {"policy.window", "3"}};
  if (played != nullptr) all.emplace_back("controller.address", "elsewhere:1");
  all.insert(all.end(), settings.begin(), settings.end());
  const wire::Config config = TestConfig(all);
  std::vector<Result> results(static_cast<size_t>(ranks));
  RunRanks(
      ranks,
      [&](int, std::unique_ptr<transport::Group> group) {
        return Engine::Open(config, std::move(group), TimeSource::Machine(),
                            [played]() -> absl::StatusOr<std::unique_ptr<controller::Link>> {
                              return std::make_unique<PlayedLink>(played);
                            });
      },
      [&](Engine& engine) {
        Result& result = results[static_cast<size_t>(engine.rank())];
        std::mt19937 random(static_cast<uint32_t>(engine.rank()) + 1);
        std::normal_distribution<float> normal;
        std::vector<std::vector<float>> gradients;
        for (const auto& [name, shape] : kTensors) {
          ASSERT_TRUE(engine.Register(name, wire::DType::kFloat32, shape).ok());
          gradients.emplace_back(static_cast<size_t>(shape[0] * shape[1]));
        }
        for (int step = 0; step < steps; ++step) {
          std::vector<Call> calls;
          for (uint32_t t = 0; t < gradients.size(); ++t) {
            for (float& x : gradients[t]) x = std::pow(10.0f, 1 - static_cast<float>(t)) * normal(random);
            calls.push_back({.tensor = t, .send = gradients[t].data(), .recv = gradients[t].data()});
          }
          ASSERT_TRUE(engine.Allreduce(calls).ok());
          size_t at = 0;
          for (const std::vector<float>& gradient : gradients) {
            result.parameters.resize(std::max(result.parameters.size(), at + gradient.size()));
            for (const float x : gradient) result.parameters[at++] -= 0.1f * x;
          }
          const absl::Status status = engine.Step(1.0);
          ASSERT_TRUE(status.ok()) << status;
          std::string row;
          for (uint32_t t = 0; t < gradients.size(); ++t) row += policy::SettingWord(engine.row(t)) + " ";
          result.settings.push_back(row);
        }
        result.report = nlohmann::json::parse(engine.Report());
      });
  return results;
}

class PlanFiles : public ::testing::Test {
 protected:
  PlanFiles() {
    folder_ = std::filesystem::temp_directory_path() / ("terse_plan_source_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  ~PlanFiles() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::string Text(const std::string& name) const {
    std::ifstream file(Path(name));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void Write(const std::string& name, const std::string& text) const { std::ofstream(Path(name)) << text; }

  std::filesystem::path folder_;
};

// The error that opening ends with, on all ranks.
std::string OpenError(const Settings& settings) {
  std::vector<std::string> errors(2);
  std::vector<std::thread> threads;
  static int runs = 0;
  const std::string hub = "plan_source_" + std::to_string(runs++);
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      transport::OpenOptions options;
      options.rank = r;
      options.world_size = 2;
      options.hub = hub;
      auto group = transport::OpenGroup("inproc", options);
      ASSERT_TRUE(group.ok());
      errors[static_cast<size_t>(r)] =
          std::string(Engine::Open(TestConfig(settings), *std::move(group)).status().message());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(errors[1], HasSubstr(errors[0])) << "told by rank 0";
  return errors[0];
}

TEST_F(PlanFiles, AReplayOfTheRecordTrainsToTheSameBits) {
  const Settings lgreco = {
      {"policy.name", "lgreco"}, {"policy.families", "topk, powersgd"}, {"policy.gain", "0"}};
  Settings recording = lgreco;
  recording.emplace_back("policy.record", Path("plans"));
  const std::vector<Result> first = Train(recording, 30);
  const auto plans = wire::ParsePlanHistory(Text("plans"));
  ASSERT_TRUE(plans.ok()) << plans.status();
  EXPECT_GE(plans->size(), 2u);
  EXPECT_EQ(plans->size(), first[0].report.at("policy").at("plans"));

  const Settings replay = {
      {"policy.name", "replay"}, {"policy.history", Path("plans")}, {"policy.record", Path("again")}};
  const std::vector<Result> second = Train(replay, 30);
  for (size_t r = 0; r < first.size(); ++r) {
    EXPECT_EQ(second[r].settings, first[0].settings);
    EXPECT_EQ(second[r].parameters, first[0].parameters);
  }
  EXPECT_EQ(Text("again"), Text("plans"));
  EXPECT_EQ(second[0].report.at("policy").at("measure_ms"), 0);
  EXPECT_THAT(second[0].report.dump(), HasSubstr("replay of plan 1"));
  // And that is not for want of a difference.
  EXPECT_NE(Train({}, 30)[0].parameters, first[0].parameters);
}

TEST_F(PlanFiles, AHistoryThatCannotBeRepeatedIsAnErrorOnAllRanks) {
  const Settings replay = {
      {"policy.name", "replay"}, {"policy.interval", "4"}, {"policy.history", Path("plans")}};
  EXPECT_THAT(OpenError(replay), HasSubstr("policy.history: cannot read " + Path("plans")));
  Write("plans", "something else\n");
  EXPECT_THAT(OpenError(replay), HasSubstr("plans: line 1: no history of plans"));
  Write("plans", "terse-plans 1\nplan 1 6\nend\n");
  EXPECT_THAT(OpenError(replay), HasSubstr("plan 1 is of step 6, which policy.interval = 4 does not divide"));
  EXPECT_THAT(
      OpenError({{"policy.name", "lgreco"}, {"policy.window", "3"}, {"policy.record", Path("no/where")}}),
      HasSubstr("policy.record: cannot write " + Path("no/where")));
}

TEST_F(PlanFiles, APlanOfAnotherJobChangesNothing) {
  const Settings replay = {{"policy.name", "replay"}, {"policy.history", Path("plans")}};
  for (const auto& [plan, why] :
       {std::pair("quantize:2 fc7", "is for tensor 'fc7', which this job has not"),
        std::pair("quantize:12 fc1", "nothing decided: 'quantize:12'"), std::pair("zip fc1", "'zip'")}) {
    Write("plans", std::string("terse-plans 1\nplan 1 4\n") + plan + "\nend\n");
    const std::vector<Result> results = Train(replay, 5);
    EXPECT_EQ(results[0].report.at("policy").at("plans"), 0);
    EXPECT_THAT(results[2].report.at("policy").at("events").at(0).at("why").get<std::string>(),
                HasSubstr(why));
    EXPECT_EQ(results[1].settings.back(), "quantize:4 quantize:4 quantize:4 ");
  }
}

TEST(RemoteController, IsToldWhatWasMeasuredAndObeyedAtTheNextInterval) {
  Played played;
  played.answer = [](const controller::JobReport& report) -> std::optional<controller::Order> {
    if (report.version > 0) return std::nullopt;
    return controller::Order{.follows = 0,
                             .settings = {"topk:0.25", "none", "powersgd:2"},
                             .reasons = {"r0", "r1", "r2"},
                             .why = "because"};
  };
  const std::vector<Result> results = Train({{"policy.name", "lgreco"}}, 12, &played);
  for (const Result& result : results) {
    EXPECT_EQ(result.settings[6], "quantize:4 quantize:4 quantize:4 ");
    EXPECT_EQ(result.settings[7], "topk:0.25 none powersgd:2 ") << "after step 8";
    EXPECT_EQ(result.settings.back(), "topk:0.25 none powersgd:2 ");
    EXPECT_EQ(result.parameters, results[0].parameters);
    EXPECT_EQ(result.report.at("policy").at("plans"), 1);
    EXPECT_EQ(result.report.at("policy").at("events").at(1).at("why"), "because");
    EXPECT_EQ(result.report.at("tensors").at(1).at("reason"), "r1");
  }
  EXPECT_EQ(results[0].report.at("controller").at("state"), "played");
  EXPECT_FALSE(results[1].report.contains("controller"));

  ASSERT_EQ(played.reports.size(), 3u);
  EXPECT_EQ(played.job->world_size, 3);
  EXPECT_EQ(played.job->tensors.size(), 3u);
  EXPECT_EQ(played.job->tensors[1].name, "fc1");
  EXPECT_THAT(played.job->config, HasSubstr("policy.name = lgreco"));
  const controller::JobReport& first = played.reports[0];
  EXPECT_EQ(first.step, 4u);
  EXPECT_EQ(first.version, 0u);
  EXPECT_EQ(first.tensors[1].setting, "quantize:4");
  EXPECT_EQ(first.tensors[1].squared_error.size(), 8u) << "dense, 2 to 8 bits";
  EXPECT_NEAR(first.tensors[1].norm, std::sqrt(128 * 64.0), 10);
  EXPECT_GT(first.tensors[1].residual_norm, 0);
  EXPECT_GT(first.tensors[1].dense_bytes, first.tensors[1].bytes_sent);
  const controller::JobReport& second = played.reports[1];
  EXPECT_EQ(second.version, 1u) << "what the order came to";
  EXPECT_EQ(second.since, 8u);
  EXPECT_EQ(second.why, "because");
  EXPECT_EQ(second.tensors[0].setting, "topk:0.25");
}

TEST(RemoteController, WhatItOrdersIsHeldAgainstTheJob) {
  for (const auto& [order, why] : std::vector<std::pair<controller::Order, std::string>>{
           {{.follows = 0, .settings = {"none", "none"}, .reasons = {"", ""}},
            "a plan of 2 tensors, where there are 3"},
           {{.follows = 0, .settings = {"none", "none", "topk:7"}, .reasons = {"", "", ""}}, "'topk:7'"},
           {{.follows = 0, .settings = {"none", "none", "none"}, .reasons = {""}}, "a plan of 3 tensors"},
           {{.follows = 9, .settings = {"none", "none", "none"}, .reasons = {"", "", ""}},
            "is for plan 9, and 0 is in force"},
       }) {
    Played played;
    played.answer = [&](const controller::JobReport&) { return order; };
    const std::vector<Result> results = Train({}, 9, &played);
    EXPECT_EQ(results[1].settings.back(), "quantize:4 quantize:4 quantize:4 ");
    EXPECT_EQ(results[1].report.at("policy").at("plans"), 0);
    EXPECT_THAT(results[1].report.at("policy").at("events").at(1).at("why").get<std::string>(),
                HasSubstr(why));
    EXPECT_EQ(played.reports.size(), 2u) << "a job that refuses goes on reporting";
  }
}

// A static policy measures nothing, but a controller can still pin and force.
TEST(RemoteController, CommandsAStaticJob) {
  Played played;
  played.answer = [](const controller::JobReport& report) -> std::optional<controller::Order> {
    if (report.version > 0) return std::nullopt;
    return controller::Order{.follows = 0,
                             .settings = {"none", "none", "none"},
                             .reasons = {"forced", "forced", "forced"},
                             .why = "forced"};
  };
  for (const char* method : {"allreduce", "dgc"}) {
    const std::vector<Result> results = Train({{"method", method}, {"compressor", "topk"}}, 9, &played);
    EXPECT_EQ(results[1].settings.back(), "none none none ");
    EXPECT_EQ(results[0].report.at("policy").at("measure_ms"), 0);
    EXPECT_TRUE(played.reports.front().tensors[0].squared_error.empty());
  }
}

// With the objective of time, ranks measure when the job hands tensors over, without what it waits for
// others, and what exchanges take.
TEST(TimeObjective, TheJobsComputingIsMeasuredBetweenExchanges) {
  Played played;
  const wire::Config config = TestConfig({{"policy.name", "lgreco"},
                                          {"policy.objective", "time"},
                                          {"policy.interval", "4"},
                                          {"policy.window", "3"},
                                          {"controller.address", "elsewhere:1"}});
  RunRanks(
      2,
      [&](int, std::unique_ptr<transport::Group> group) {
        return Engine::Open(config, std::move(group), TimeSource::Machine(),
                            [&]() -> absl::StatusOr<std::unique_ptr<controller::Link>> {
                              return std::make_unique<PlayedLink>(&played);
                            });
      },
      [](Engine& engine) {
        std::vector<float> first(4096, 1.0f);
        std::vector<float> second(4096, 1.0f);
        ASSERT_TRUE(engine.Register("first", wire::DType::kFloat32, {64, 64}).ok());
        ASSERT_TRUE(engine.Register("second", wire::DType::kFloat32, {64, 64}).ok());
        for (int step = 0; step < 8; ++step) {
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
          ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = first.data(), .recv = first.data()}}).ok());
          std::this_thread::sleep_for(std::chrono::milliseconds(3));
          ASSERT_TRUE(engine.Allreduce({{.tensor = 1, .send = second.data(), .recv = second.data()}}).ok());
          ASSERT_TRUE(engine.Step(1.0).ok());
        }
      });
  // The first steps are not counted: nothing is known of the tensors yet.
  ASSERT_EQ(played.reports.size(), 2u);
  const std::vector<controller::TensorReport>& tensors = played.reports[1].tensors;
  EXPECT_GE(tensors[0].ready_ms, 2);
  EXPECT_GE(tensors[1].ready_ms, tensors[0].ready_ms + 3);
  EXPECT_GT(tensors[1].wire_ms, 0);
  EXPECT_GT(tensors[1].codec_ms, 0);
}

}  // namespace
}  // namespace terse::engine
