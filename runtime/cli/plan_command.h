// SPDX-License-Identifier: Apache-2.0
//
// `terse plan solve`.
#ifndef TERSE_RUNTIME_CLI_PLAN_COMMAND_H_
#define TERSE_RUNTIME_CLI_PLAN_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>

namespace terse::cli {

// Adds the subcommands to `app` and sets *run to what was asked for once the line is parsed.
void AddPlanCommand(CLI::App& app, std::function<void()>* run);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_PLAN_COMMAND_H_
