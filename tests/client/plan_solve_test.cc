// SPDX-License-Identifier: Apache-2.0
//
// The knapsack's JSON: what is read, what is refused and how that is said, what is written.
#include "runtime/client/plan_solve.h"

#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"

namespace terse::client {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST(PlanSolve, WritesWhatWasChosen) {
  const auto text = SolvePlan(R"({"error": [[9, 5, 2, 0], [12, 7, 3, 1], [20, 11, 6, 2], [4, 2, 1, 0]],
      "size": [[2, 4, 8, 16], [3, 6, 12, 24], [10, 20, 40, 80], [1, 2, 4, 8]], "budget": 15})");
  ASSERT_TRUE(text.ok()) << text.status();
  const Json answer = Json::parse(*text);
  EXPECT_EQ(answer.at("choice"), Json({3, 2, 1, 2}));
  EXPECT_EQ(answer.at("size"), 52);
  EXPECT_EQ(answer.at("error"), 15);
  EXPECT_EQ(answer.at("lower_bound"), 52);
  EXPECT_EQ(answer.at("finish"), 52);
  EXPECT_EQ(answer.at("gap"), 0);
  EXPECT_EQ(answer.at("way"), "exact");
}

TEST(PlanSolve, SquaresAreAddedUpWhereThatIsAsked) {
  const std::string tables = R"({"error": [[3, 1], [4, 2]], "size": [[1, 5], [1, 3]], "budget": )";
  // 9 + 4 is within 13, 1 + 16 is not.
  const auto squared = SolvePlan(tables + R"(13, "metric": "sum_squared"})");
  ASSERT_TRUE(squared.ok()) << squared.status();
  EXPECT_EQ(Json::parse(*squared).at("choice"), Json({0, 1}));
  EXPECT_EQ(Json::parse(*squared).at("error"), 13);
  const auto plain = SolvePlan(tables + R"(13, "metric": "sum"})");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(Json::parse(*plain).at("choice"), Json({0, 0}));
}

TEST(PlanSolve, SizesOfZeroHaveNoGapOrNoNumberForIt) {
  const auto text = SolvePlan(R"({"error": [], "size": [], "budget": 0, "ready": []})");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(Json::parse(*text).at("choice"), Json::array());
  EXPECT_EQ(Json::parse(*text).at("gap"), 0);
  // Half of a layer's candidate would do, and half of its size is more than nothing.
  const auto half = SolvePlan(R"({"error": [[2, 0]], "size": [[0, 2]], "budget": 1})");
  ASSERT_TRUE(half.ok()) << half.status();
  EXPECT_EQ(Json::parse(*half).at("lower_bound"), 1);
  EXPECT_EQ(Json::parse(*half).at("gap"), 1);
}

TEST(PlanSolve, TheUniformChoiceIsTheWorst) {
  const auto text = SolvePlan(R"({"error": [[1], [1]], "size": [[1], [1]], "budget": 2, "uniform": [0, 0]})");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(Json::parse(*text).at("size"), 2);
}

TEST(PlanSolve, RefusesWhatIsNoProblemAndSaysWhere) {
  const auto message = [](const std::string& problem) {
    const auto answer = SolvePlan(problem);
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kInvalidArgument) << problem;
    return std::string(answer.status().message());
  };
  EXPECT_THAT(message(""), HasSubstr("not JSON"));
  EXPECT_THAT(message("{"), HasSubstr("not JSON"));
  EXPECT_THAT(message("\xff\xfe"), HasSubstr("not JSON"));
  EXPECT_THAT(message(std::string(100000, '[')), HasSubstr("not JSON"));
  EXPECT_THAT(message("[]"), HasSubstr("no object"));
  EXPECT_THAT(message(R"({"size": [], "budget": 1})"), HasSubstr("\"error\" is missing"));
  EXPECT_THAT(message(R"({"error": [], "budget": 1})"), HasSubstr("\"size\" is missing"));
  EXPECT_THAT(message(R"({"error": [], "size": []})"), HasSubstr("\"budget\" is missing"));
  const auto with = [&](const std::string& more) {
    return message(R"({"error": [[1]], "size": [[1]], "budget": 1, )" + more + "}");
  };
  EXPECT_THAT(with(R"("error": 3)"), HasSubstr("error is no list of lists"));
  EXPECT_THAT(with(R"("error": [3])"), HasSubstr("error[0] is no list"));
  EXPECT_THAT(with(R"("size": [["a"]])"), HasSubstr("size[0][0] is no number"));
  EXPECT_THAT(with(R"("size": [[NaN]])"), HasSubstr("not JSON"));
  EXPECT_THAT(with(R"("size": [[1e999]])"), HasSubstr("not JSON"));
  EXPECT_THAT(with(R"("size": [[-1]])"), HasSubstr("size[0] is -1"));
  EXPECT_THAT(with(R"("error": [[-1]], "metric": "sum_squared")"), HasSubstr("an error is -1"));
  EXPECT_THAT(with(R"("error": [[1e300]], "metric": "sum_squared")"), HasSubstr("error[0] is inf"));
  EXPECT_THAT(with(R"("budget": null)"), HasSubstr("budget is no number"));
  EXPECT_THAT(with(R"("metric": "l2")"), HasSubstr("metric is \"l2\"; \"sum\" and \"sum_squared\""));
  EXPECT_THAT(with(R"("ready": [])"), HasSubstr("ready is empty"));
  EXPECT_THAT(with(R"("ready": [1, 2])"), HasSubstr("ready has 2"));
  EXPECT_THAT(with(R"("uniform": [1.5])"), HasSubstr("uniform[0] is no number of a candidate"));
  EXPECT_THAT(with(R"("uniform": [-1])"), HasSubstr("uniform[0] is no number of a candidate"));
  EXPECT_THAT(with(R"("uniform": [4294967296])"), HasSubstr("uniform[0] is no number of a candidate"));
  EXPECT_THAT(with(R"("uniform": [1])"), HasSubstr("the fallback is candidate 1 of 1"));
  EXPECT_THAT(with(R"("redy": [1])"), HasSubstr("there is no key \"redy\"; allowed are"));
}

TEST(PlanSolve, WhatCannotBeKeptIsOutOfRange) {
  const auto answer = SolvePlan(R"({"error": [[1], [2]], "size": [[1], [1]], "budget": 2.5})");
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("the least error that there is is 3"));
}

}  // namespace
}  // namespace terse::client
