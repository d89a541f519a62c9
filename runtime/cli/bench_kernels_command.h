// SPDX-License-Identifier: Apache-2.0
//
// `terse bench kernels`: the codecs' work on one gradient against a memcpy of it.
#ifndef TERSE_RUNTIME_CLI_BENCH_KERNELS_COMMAND_H_
#define TERSE_RUNTIME_CLI_BENCH_KERNELS_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>

namespace terse::cli {

// Adds the subcommand to `bench` and sets *run to what was asked for once the line is parsed.
void AddBenchKernelsCommand(CLI::App* bench, std::function<void()>* run);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_BENCH_KERNELS_COMMAND_H_
