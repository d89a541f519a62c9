// SPDX-License-Identifier: Apache-2.0
//
// `terse top`, `terse job` and those of `terse plan` that talk to a controller: terse-console, beside this
// command, is what does them.
#ifndef TERSE_RUNTIME_CLI_CONSOLE_COMMAND_H_
#define TERSE_RUNTIME_CLI_CONSOLE_COMMAND_H_

#include <CLI/CLI.hpp>

namespace terse::cli {

// Becomes terse-console where the command line is for it; else returns. Throws CommandError when it is not
// installed.
void RunConsoleIfAsked(int argc, char** argv);

// For `terse --help` and `terse plan --help`.
void ListConsoleCommands(CLI::App& app);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_CONSOLE_COMMAND_H_
