// SPDX-License-Identifier: Apache-2.0
//
// `terse state show`.
#ifndef TERSE_RUNTIME_CLI_STATE_COMMAND_H_
#define TERSE_RUNTIME_CLI_STATE_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>

namespace terse::cli {

// Adds the subcommands to `app` and sets *run to what was asked for once the line is parsed.
void AddStateCommand(CLI::App& app, std::function<void()>* run);

// The table for people, of the JSON that terse_state_show gives.
std::string FormatState(std::string_view json);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_STATE_COMMAND_H_
