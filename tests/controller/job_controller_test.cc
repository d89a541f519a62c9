// SPDX-License-Identifier: Apache-2.0
//
// The controller of a job as a state machine: scripted events against the plans that they are to give
// (tests/controller/scripts). A script is
//
//   {"config": {KEY: VALUE}, "world_size": N, "tensors": [{"name": ..., "shape": [...]}],
//    "events": [{EVENT: ..., "expect": {...}}, ...]}
//
// with the events {"measured": [S, ...]} (the gradients' scales by tensor, from which what candidates leave
// behind follows; or an object for a tensor: {"norm": x, "squared_error": [...]}; null: not measured),
// {"pin": T, "setting": S}, {"unpin": T}, {"alpha": A}, {"pause": B} and {"dense": B}. The job of a script
// takes up every plan. UPDATE_SCRIPTS=1 writes what comes out as what is expected: read the difference.
#include "runtime/controller/policy/job_controller.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "runtime/controller/policy/setting.h"

namespace terse::policy {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr uint64_t kInterval = 100;

// What normal elements of a scale leave behind, roughly.
std::vector<double> ErrorsOf(const TensorInfo& tensor, const Candidates& candidates, double scale) {
  std::vector<double> errors;
  const double all = static_cast<double>(tensor.elements) * scale * scale;
  for (const Candidate& candidate : candidates.all) {
    double part = 0;
    if (candidate.row.codec == wire::Codec::kQuantize) {
      part = 3.0 / std::pow(std::pow(2.0, candidate.row.params.bits) - 1, 2);
    } else if (candidate.row.codec == wire::Codec::kTopK) {
      part = 1 - 6 * candidate.row.params.density;
    } else if (candidate.row.codec == wire::Codec::kPowerSgd) {
      part = 1 / (1.0 + 0.2 * candidate.row.params.rank);
    }
    errors.push_back(all * std::max(0.0, part));
  }
  return errors;
}

// A job as a script describes it, whose controller it asks.
class Job {
 public:
  explicit Job(const Json& script) {
    wire::Settings settings;
    for (const auto& [key, value] : script.at("config").items()) {
      EXPECT_TRUE(settings.Set(key, value.get<std::string>(), wire::Origin::kFlag).ok()) << key;
    }
    EXPECT_TRUE(settings.Validate().ok()) << settings.Validate();
    config_ = settings.config();
    world_size_ = script.at("world_size").get<int>();
    for (const Json& tensor : script.at("tensors")) {
      TensorInfo info{.id = static_cast<uint32_t>(tensors_.size()),
                      .name = tensor.at("name"),
                      .elements = 1,
                      .shape = tensor.at("shape").get<std::vector<int64_t>>()};
      for (const int64_t n : info.shape) info.elements *= static_cast<uint64_t>(n);
      rows_.push_back(StaticRow(config_, world_size_, info));
      tensors_.push_back(std::move(info));
    }
    Restart();
  }

  // The controller, not the job.
  void Restart() { controller_ = std::make_unique<JobController>(config_, world_size_, tensors_); }

  JobController& controller() { return *controller_; }

  Measured MeasuredOf(const Json& scales) {
    Measured measured{.step = step_ += kInterval,
                      .activation_step = step_,
                      .version = version_,
                      .rows = rows_,
                      .statistics = {}};
    for (size_t t = 0; t < scales.size(); ++t) {
      TensorStatistics statistics;
      if (scales[t].is_object()) {
        statistics.norm = scales[t].at("norm");
        statistics.squared_error = scales[t].at("squared_error").get<std::vector<double>>();
      } else if (!scales[t].is_null()) {
        const double scale = scales[t];
        statistics.norm = scale * std::sqrt(static_cast<double>(tensors_[t].elements));
        statistics.squared_error = ErrorsOf(tensors_[t], controller_->candidates()[t], scale);
      }
      measured.statistics.push_back(std::move(statistics));
    }
    return measured;
  }

  // What came of an event of a script.
  Json Do(const Json& event) {
    Event asked;
    if (event.contains("measured")) {
      asked = MeasuredOf(event.at("measured"));
    } else if (event.contains("pin")) {
      asked = PinTensor{event.at("pin"), event.at("setting").get<std::string>()};
    } else if (event.contains("unpin")) {
      asked = PinTensor{event.at("unpin"), std::nullopt};
    } else if (event.contains("alpha")) {
      asked = SetAlpha{event.at("alpha")};
    } else if (event.contains("pause")) {
      asked = PauseAdaptation{event.at("pause")};
    } else if (event.contains("restart")) {
      Restart();
      return Json::object();
    } else {
      asked = ForceDense{event.at("dense")};
    }
    return Do(asked);
  }

  Json Do(const Event& event) {
    const absl::StatusOr<std::vector<Action>> actions = controller_->Step(event);
    if (!actions.ok()) return {{"error", std::string(actions.status().message())}};
    Json result = Json::object();
    for (const Action& action : *actions) {
      EXPECT_EQ(action.plan.has_value(), action.outcome.changed);
      result["why"] = action.outcome.why;
      if (!action.plan.has_value()) continue;
      const wire::Plan& plan = *action.plan;
      EXPECT_EQ(plan.version, version_ + 1);
      EXPECT_EQ(plan.activation_step, step_);
      EXPECT_EQ(plan.rows.size(), tensors_.size());
      result["version"] = plan.version;
      for (size_t t = 0; t < plan.rows.size(); ++t) {
        EXPECT_EQ(plan.rows[t].tensor, t);
        result["rows"][tensors_[t].name] = SettingWord(plan.rows[t]) + " (" + plan.rows[t].reason + ")";
      }
      version_ = plan.version;
      rows_ = plan.rows;
    }
    return result;
  }

  const std::vector<wire::PlanRow>& rows() const { return rows_; }

 private:
  wire::Config config_;
  int world_size_ = 0;
  std::vector<TensorInfo> tensors_;
  std::unique_ptr<JobController> controller_;
  std::vector<wire::PlanRow> rows_;
  uint32_t version_ = 0;
  uint64_t step_ = 0;
};

Json Read(const std::filesystem::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

class Scripts : public ::testing::TestWithParam<std::string> {};

TEST_P(Scripts, GiveTheExpectedPlans) {
  const std::filesystem::path path =
      std::filesystem::path(TERSE_SOURCE_DIR) / "tests/controller/scripts" / GetParam();
  Json script = Read(path);
  const bool update = std::getenv("UPDATE_SCRIPTS") != nullptr;
  for (int run = 0; run < 2; ++run) {
    Job job(script);
    for (Json& event : script.at("events")) {
      const Json got = job.Do(event);
      if (update && run == 0) event["expect"] = got;
      EXPECT_EQ(got, event.value("expect", Json::object())) << event.dump();
    }
  }
  if (update) std::ofstream(path) << script.dump(1) << "\n";
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(TERSE_SOURCE_DIR) /
                                                               "tests/controller/scripts"))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, Scripts, ::testing::ValuesIn(Names()),
                         [](const auto& script) { return script.param.substr(0, script.param.find('.')); });

Job Example() {
  return Job(Read(std::filesystem::path(TERSE_SOURCE_DIR) / "tests/controller/scripts/commands.json"));
}

TEST(JobController, WhatIsNoneIsRefusedAndChangesNothing) {
  Job job = Example();
  const Measured good = job.MeasuredOf({1, 1, 1, 1});
  const auto message = [&](const Event& event, absl::StatusCode code) {
    const auto actions = job.controller().Step(event);
    EXPECT_EQ(actions.status().code(), code);
    return std::string(actions.status().message());
  };
  Measured bad = good;
  bad.rows.pop_back();
  EXPECT_THAT(message(bad, absl::StatusCode::kInvalidArgument),
              HasSubstr("rows of 3 tensors where there are 4"));
  bad = good;
  bad.statistics.pop_back();
  EXPECT_THAT(message(bad, absl::StatusCode::kInvalidArgument), HasSubstr("statistics of 3 tensors"));
  bad = good;
  bad.statistics[1].norm = std::nan("");
  EXPECT_THAT(message(bad, absl::StatusCode::kInvalidArgument),
              HasSubstr("tensor 1: an error or a norm is nan"));
  EXPECT_THAT(message(PinTensor{"no such", "none"}, absl::StatusCode::kNotFound),
              HasSubstr("no tensor 'no such'"));
  EXPECT_THAT(message(PinTensor{"fc1", "zip"}, absl::StatusCode::kInvalidArgument), HasSubstr("zip"));
  for (const double alpha : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    EXPECT_THAT(message(SetAlpha{alpha}, absl::StatusCode::kInvalidArgument), HasSubstr("alpha is"));
  }
  EXPECT_TRUE(job.controller().pins().empty());
  EXPECT_EQ(job.controller().alpha(), 1.0);
  const auto after = job.controller().Step(good);
  const auto fresh = Example().controller().Step(good);
  ASSERT_TRUE(after.ok() && fresh.ok());
  EXPECT_EQ(after->front().plan, fresh->front().plan);
}

}  // namespace
}  // namespace terse::policy
