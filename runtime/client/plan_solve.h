// SPDX-License-Identifier: Apache-2.0
//
// terse_plan_solve: the policies' knapsack, posed and answered in JSON.
#ifndef TERSE_RUNTIME_CLIENT_PLAN_SOLVE_H_
#define TERSE_RUNTIME_CLIENT_PLAN_SOLVE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace terse::client {

// The answer to `problem`, both as docs/cli.md has them under `terse plan solve`. InvalidArgument: it is no
// problem, and where. OutOfRange: no choice is within the budget.
absl::StatusOr<std::string> SolvePlan(absl::string_view problem);

}  // namespace terse::client

#endif  // TERSE_RUNTIME_CLIENT_PLAN_SOLVE_H_
