// SPDX-License-Identifier: Apache-2.0
//
// What the `terse` command returns to the shell. The numbers are part of its interface (docs/cli.md).
#ifndef TERSE_RUNTIME_CLI_EXIT_CODE_H_
#define TERSE_RUNTIME_CLI_EXIT_CODE_H_

#include <stdexcept>
#include <string>

#include "terse/terse.h"

namespace terse::cli {

enum ExitCode : int {
  kSuccess = 0,
  kFailure = 1,
  kUsage = 2,
  kCannotReach = 3,    // a peer that is gone or silent
  kInfeasible = 3,     // terse plan solve: no plan is within the budget
  kConfigInvalid = 4,  // a key, a value, a file or a plug-in that the configuration names
  kFoundFault = 5,     // terse doctor: something is wrong with the set-up or the job
  kInterrupted = 130,  // SIGINT
};

ExitCode FromStatus(terse_status_t status);

// A failure that the command found by itself, before it asked the library.
class CommandError : public std::runtime_error {
 public:
  CommandError(ExitCode code, const std::string& what) : std::runtime_error(what), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_EXIT_CODE_H_
