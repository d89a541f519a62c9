// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/plan_history.h"

#include <charconv>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/wire/text.h"

namespace terse::wire {
namespace {

// Takes the number at the front of `text`, and the blank behind it if there is one.
template <typename Number>
bool TakeNumber(std::string_view* text, Number* number) {
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *number);
  if (error != std::errc()) return false;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  if (!text->empty() && text->front() == ' ') text->remove_prefix(1);
  return true;
}

}  // namespace

std::string PlanHistoryText(const PastPlan& plan) {
  std::string text = absl::StrCat("plan ", plan.version, " ", plan.step, "\n");
  for (const PastPlan::Change& change : plan.changes)
    absl::StrAppend(&text, change.setting, " ", change.tensor, "\n");
  return text + "end\n";
}

absl::StatusOr<std::map<uint64_t, PastPlan>> ParsePlanHistory(std::string_view text) {
  constexpr std::string_view kPlan = "plan ";
  size_t number = 1;
  const auto refuse = [&](auto... why) {
    return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", why...));
  };
  if (text.substr(0, kPlanHistoryHead.size()) != kPlanHistoryHead) {
    return refuse("no history of plans begins so; its first line is '",
                  View(kPlanHistoryHead.substr(0, kPlanHistoryHead.size() - 1)), "'");
  }
  text.remove_prefix(kPlanHistoryHead.size());
  std::map<uint64_t, PastPlan> plans;
  std::optional<PastPlan> plan;
  uint32_t last_version = 0;
  // What is behind the last end of a line was being written.
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    ++number;
    if (!plan.has_value()) {
      plan.emplace();
      if (line.substr(0, kPlan.size()) != kPlan) return refuse("a plan begins with 'plan VERSION STEP'");
      line.remove_prefix(kPlan.size());
      if (!TakeNumber(&line, &plan->version) || !TakeNumber(&line, &plan->step) || !line.empty())
        return refuse("a plan begins with 'plan VERSION STEP'");
      if (plan->version <= last_version) {
        return refuse("plan ", plan->version, " is behind plan ", last_version);
      }
      if (!plans.empty() && plan->step <= plans.rbegin()->first) {
        return refuse("plan ", plan->version, " is of step ", plan->step, ", the one before it of step ",
                      plans.rbegin()->first);
      }
    } else if (line == "end") {
      last_version = plan->version;
      plans.emplace(plan->step, *plan);
      plan.reset();
    } else {
      const size_t blank = line.find(' ');
      if (blank == std::string_view::npos || blank == 0 || blank + 1 == line.size())
        return refuse("a tensor's setting and its name are expected, or 'end'");
      plan->changes.push_back(
          {.tensor = std::string(line.substr(blank + 1)), .setting = std::string(line.substr(0, blank))});
    }
  }
  return plans;
}

}  // namespace terse::wire
