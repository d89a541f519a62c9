// SPDX-License-Identifier: Apache-2.0
//
// Histories of plans: what is written is what is read, and what is none is refused.
#include "proto/wire/plan_history.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"

namespace terse::wire {
namespace {

using ::testing::HasSubstr;

const std::vector<PastPlan> kPlans = {
    {.version = 1, .step = 100, .changes = {{"conv 1", "quantize:3"}, {"fc", "none"}}},
    {.version = 2, .step = 300, .changes = {{"fc", "topk:0.0125"}}},
    {.version = 7, .step = 400, .changes = {}},
};

std::string TextOf(const std::vector<PastPlan>& plans) {
  std::string text(kPlanHistoryHead);
  for (const PastPlan& plan : plans) text += PlanHistoryText(plan);
  return text;
}

TEST(PlanHistory, IsReadAsItWasWritten) {
  const auto plans = ParsePlanHistory(TextOf(kPlans));
  ASSERT_TRUE(plans.ok()) << plans.status();
  ASSERT_EQ(plans->size(), kPlans.size());
  for (const PastPlan& plan : kPlans) EXPECT_EQ(plans->at(plan.step), plan);
  EXPECT_TRUE(ParsePlanHistory(std::string(kPlanHistoryHead))->empty());
}

// As it is after a kill: every prefix has the plans that were whole.
TEST(PlanHistory, IsGoodUpToWhereItWasCutOff) {
  const std::string text = TextOf(kPlans);
  size_t last = 0;
  for (size_t n = kPlanHistoryHead.size(); n <= text.size(); ++n) {
    const auto plans = ParsePlanHistory(text.substr(0, n));
    ASSERT_TRUE(plans.ok()) << n << ": " << plans.status();
    EXPECT_GE(plans->size(), last);
    last = plans->size();
  }
  EXPECT_EQ(last, kPlans.size());
}

TEST(PlanHistory, WhatIsNoneIsRefusedByItsLine) {
  const auto message = [](const std::string& text) {
    const auto plans = ParsePlanHistory(text);
    EXPECT_EQ(plans.status().code(), absl::StatusCode::kInvalidArgument) << text;
    return std::string(plans.status().message());
  };
  const std::string head(kPlanHistoryHead);
  EXPECT_THAT(message(""), HasSubstr("line 1: no history"));
  EXPECT_THAT(message("terse-plans 2\n"), HasSubstr("line 1: no history"));
  EXPECT_THAT(message(head + "quantize:4 w\n"), HasSubstr("line 2: a plan begins with"));
  EXPECT_THAT(message(head + "plan 1\n"), HasSubstr("line 2: a plan begins with"));
  EXPECT_THAT(message(head + "plan 1 2 3\n"), HasSubstr("line 2: a plan begins with"));
  EXPECT_THAT(message(head + "plan -1 2\n"), HasSubstr("line 2: a plan begins with"));
  EXPECT_THAT(message(head + "plan 1 2\nw\n"), HasSubstr("line 3: a tensor's setting"));
  EXPECT_THAT(message(head + "plan 1 2\n w\n"), HasSubstr("line 3: a tensor's setting"));
  EXPECT_THAT(message(head + "plan 1 2\nend\nplan 1 4\n"), HasSubstr("line 4: plan 1 is behind plan 1"));
  EXPECT_THAT(message(head + "plan 1 2\nend\nplan 2 2\n"), HasSubstr("line 4: plan 2 is of step 2"));
  EXPECT_THAT(message(head + "plan 0 2\n"), HasSubstr("line 2: plan 0 is behind plan 0"));
}

}  // namespace
}  // namespace terse::wire
