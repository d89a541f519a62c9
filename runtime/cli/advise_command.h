// SPDX-License-Identifier: Apache-2.0
//
// `terse advise`: runs an MPI job under the preload library, which observes, and says what Terse could do
// for it.
#ifndef TERSE_RUNTIME_CLI_ADVISE_COMMAND_H_
#define TERSE_RUNTIME_CLI_ADVISE_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/job.h"
#include "runtime/cli/settings.h"

namespace terse::cli {

// Adds the subcommand to `app` and sets *run to what was asked for once the line is parsed. `job` is what
// stood behind -- on the line.
void AddAdviseCommand(CLI::App& app, const Words& job, std::function<void()>* run);

// The advice on a report of the preload library (docs/preload.md), as JSON (docs/cli.md). `config` says which
// of the calls that could be compressed are not to be (include, exclude), and what the others would become.
std::string Advise(std::string_view report, const std::vector<ConfigLine>& config);
// The same for people.
std::string FormatAdvice(std::string_view advice);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_ADVISE_COMMAND_H_
