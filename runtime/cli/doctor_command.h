// SPDX-License-Identifier: Apache-2.0
//
// `terse doctor`: what is there, what would be intercepted, and what is wrong with the set-up.
#ifndef TERSE_RUNTIME_CLI_DOCTOR_COMMAND_H_
#define TERSE_RUNTIME_CLI_DOCTOR_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "runtime/cli/process.h"

namespace terse::cli {

// Adds the subcommand to `app` and sets *run to what was asked for once the line is parsed. `job` is what
// stood behind --; it may be empty.
void AddDoctorCommand(CLI::App& app, const Words& job, std::function<void()>* run);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_DOCTOR_COMMAND_H_
