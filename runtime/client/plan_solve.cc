// SPDX-License-Identifier: Apache-2.0
#include "runtime/client/plan_solve.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/controller/policy/knapsack.h"

namespace terse::client {
namespace {

using Json = nlohmann::ordered_json;

template <typename... Words>
absl::Status Wrong(const Words&... words) {
  return absl::InvalidArgumentError(absl::StrCat(words...));
}

absl::StatusOr<std::vector<double>> Numbers(const Json& json, const std::string& where) {
  if (!json.is_array()) return Wrong(where, " is no list");
  std::vector<double> numbers;
  numbers.reserve(json.size());
  for (const Json& number : json) {
    if (!number.is_number()) return Wrong(where, "[", numbers.size(), "] is no number");
    numbers.push_back(number.get<double>());
  }
  return numbers;
}

absl::StatusOr<std::vector<std::vector<double>>> Table(const Json& json, const std::string& name) {
  if (!json.is_array()) return Wrong(name, " is no list of lists");
  std::vector<std::vector<double>> table;
  table.reserve(json.size());
  for (const Json& row : json) {
    auto numbers = Numbers(row, absl::StrCat(name, "[", table.size(), "]"));
    if (!numbers.ok()) return numbers.status();
    table.push_back(*std::move(numbers));
  }
  return table;
}

absl::StatusOr<std::vector<uint32_t>> Choice(const Json& json, const std::string& name) {
  if (!json.is_array()) return Wrong(name, " is no list");
  std::vector<uint32_t> choice;
  for (const Json& number : json) {
    if (!number.is_number_unsigned() || number.get<uint64_t>() > std::numeric_limits<uint32_t>::max()) {
      return Wrong(name, "[", choice.size(), "] is no number of a candidate: 0, 1, ...");
    }
    choice.push_back(number.get<uint32_t>());
  }
  return choice;
}

// What is in `from`, if that went well.
template <typename T>
absl::Status Take(absl::StatusOr<T> from, T* to) {
  if (!from.ok()) return from.status();
  *to = *std::move(from);
  return absl::OkStatus();
}

absl::Status Read(const Json& json, policy::Knapsack* problem) {
  if (!json.is_object())
    return Wrong("the problem is no object: {\"error\": [[...]], \"size\": [[...]], ...}");
  for (const char* const key : {"error", "size", "budget"}) {
    if (!json.contains(key)) return Wrong("\"", key, "\" is missing");
  }
  bool squared = false;
  for (const auto& [key, value] : json.items()) {
    absl::Status status;
    if (key == "error") {
      status = Take(Table(value, key), &problem->error);
    } else if (key == "size") {
      status = Take(Table(value, key), &problem->size);
    } else if (key == "ready") {
      status = Take(Numbers(value, key), &problem->ready);
      // A job without layers is ready at once.
      if (status.ok() && problem->ready.empty() && !json.at("error").empty())
        status = Wrong("ready is empty");
    } else if (key == "uniform") {
      status = Take(Choice(value, key), &problem->fallback);
    } else if (key == "budget") {
      if (!value.is_number()) return Wrong("budget is no number");
      problem->budget = value.get<double>();
    } else if (key == "metric") {
      if (value != "sum" && value != "sum_squared") {
        return Wrong("metric is ", value.dump(), "; \"sum\" and \"sum_squared\" are allowed");
      }
      squared = value == "sum_squared";
    } else {
      return Wrong("there is no key \"", key, "\"; allowed are error, size, budget, metric, ready, uniform");
    }
    if (!status.ok()) return status;
  }
  if (!squared) return absl::OkStatus();
  for (size_t l = 0; l < problem->error.size(); ++l) {
    for (double& error : problem->error[l]) {
      if (error < 0)
        return Wrong("layer ", l, ": an error is ", error, "; finite and not negative is allowed");
      error *= error;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> SolvePlan(absl::string_view text) {
  Json json;
  try {
    json = Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    return Wrong("not JSON: ", error.what());
  }
  policy::Knapsack problem;
  if (absl::Status status = Read(json, &problem); !status.ok()) return status;
  const absl::StatusOr<policy::KnapsackAnswer> answer = policy::Solve(problem);
  if (!answer.ok()) return answer.status();
  Json out = {{"choice", answer->choice},
              {"size", answer->size},
              {"error", answer->error},
              {"lower_bound", answer->lower_bound},
              {"finish", answer->finish}};
  const double gap = answer->Gap(!problem.ready.empty());
  out["gap"] = std::isfinite(gap) ? Json(gap) : Json(nullptr);
  out["way"] = policy::Name(answer->way);
  return out.dump();
}

}  // namespace terse::client
