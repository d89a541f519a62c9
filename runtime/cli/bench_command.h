// SPDX-License-Identifier: Apache-2.0
//
// `terse bench`: compressed all-reduce against the transport's own dense one, side by side in one run.
#ifndef TERSE_RUNTIME_CLI_BENCH_COMMAND_H_
#define TERSE_RUNTIME_CLI_BENCH_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>

namespace terse::cli {

// Adds the subcommand to `app` and sets *run to what was asked for once the line is parsed.
void AddBenchCommand(CLI::App& app, std::function<void()>* run);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_BENCH_COMMAND_H_
