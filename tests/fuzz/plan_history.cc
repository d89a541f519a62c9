// SPDX-License-Identifier: Apache-2.0
//
// Histories of plans: a text is refused by its line, or what was read of it is written and read again as it
// is; and every setting in it is refused in words, or is the word of its row.
#include "proto/wire/plan_history.h"

#include <map>
#include <string>
#include <string_view>

#include "runtime/controller/policy/setting.h"
#include "tests/fuzz/fuzz.h"

namespace {

using terse::fuzz::Require;

void CheckSetting(std::string_view word) {
  const terse::wire::Config config;
  const terse::policy::TensorInfo tensor{.id = 0,
                                         .name = "w",
                                         .dtype = terse::wire::DType::kFloat32,
                                         .elements = 512 * 1024,
                                         .shape = {512, 1024}};
  const auto row = terse::policy::RowOf(config, 4, tensor, word);
  if (!row.ok()) {
    Require(!row.status().message().empty(), "a refusal says why");
    return;
  }
  const auto again = terse::policy::RowOf(config, 4, tensor, terse::policy::SettingWord(*row));
  Require(again.ok() && terse::wire::RowText(*again) == terse::wire::RowText(*row), "a word is its row's");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto plans = terse::wire::ParsePlanHistory(text);
  if (!plans.ok()) {
    Require(plans.status().message().substr(0, 5) == "line ", "a refusal names the line");
    return 0;
  }
  std::string written(terse::wire::kPlanHistoryHead);
  for (const auto& [step, plan] : *plans) {
    Require(step == plan.step, "plans are kept by their steps");
    written += terse::wire::PlanHistoryText(plan);
    for (const terse::wire::PastPlan::Change& change : plan.changes) CheckSetting(change.setting);
  }
  const auto again = terse::wire::ParsePlanHistory(written);
  Require(again.ok() && *again == *plans, "what is written is read as it is");
  return 0;
}
