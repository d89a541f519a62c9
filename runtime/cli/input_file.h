// SPDX-License-Identifier: Apache-2.0
//
// Files that a user names for a command to read.
#ifndef TERSE_RUNTIME_CLI_INPUT_FILE_H_
#define TERSE_RUNTIME_CLI_INPUT_FILE_H_

#include <string>

namespace terse::cli {

// All of it; "-" is standard input. Throws CommandError(kFailure), with the system's reason.
std::string ReadInput(const std::string& file);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_INPUT_FILE_H_
