// SPDX-License-Identifier: Apache-2.0
//
// The program in a launcher's command line.
#ifndef TERSE_RUNTIME_CLI_LAUNCH_LINE_H_
#define TERSE_RUNTIME_CLI_LAUNCH_LINE_H_

#include "runtime/cli/process.h"

namespace terse::cli {

// The words of `command` from its program on, without a launcher's own options and `env NAME=VALUE...`. Of
// several programs (MPMD) the first. Empty when there is none.
Words ProgramWords(const Words& command, bool launcher);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_LAUNCH_LINE_H_
