// SPDX-License-Identifier: Apache-2.0
//
// `terse run`: an MPI job that knows nothing of Terse, with its gradients compressed.
#ifndef TERSE_RUNTIME_CLI_RUN_COMMAND_H_
#define TERSE_RUNTIME_CLI_RUN_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "runtime/cli/job.h"
#include "runtime/cli/settings.h"

namespace terse::cli {

// Adds the subcommand to `app` and sets *run to what was asked for once the line is parsed. `job` is what
// stood behind --.
void AddRunCommand(CLI::App& app, const Words& job, std::function<void()>* run);

// Settings out of flags that are called as keys are, with '-' for '.' and '_': "--topk-density 0.01" or
// "--topk-density=0.01"; of a boolean key, without a value, true. CommandError(kUsage) where no key is called
// so, or a value is missing.
std::vector<Setting> SettingsOfFlags(const Words& flags, const std::vector<ConfigLine>& keys);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_RUN_COMMAND_H_
