// SPDX-License-Identifier: Apache-2.0
//
// Other processes that are asked something: a command's output, or a function that had better not run in this
// one. Each has a deadline, at which it is killed. Call while the process has one thread.
#ifndef TERSE_RUNTIME_CLI_PROCESS_H_
#define TERSE_RUNTIME_CLI_PROCESS_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace terse::cli {

using Words = std::vector<std::string>;
using JobVariables = std::vector<std::pair<std::string, std::string>>;  // name, value

inline constexpr int kAnswerSeconds = 20;

struct Answer {
  std::string text;
  int code = 0;            // the exit code, or 128 + the signal that ended it
  bool timed_out = false;  // killed at the deadline
};

// What a command writes to stdout and stderr, with `variables` over this process's environment. Code 127: it
// cannot be run.
Answer Ask(const Words& command, const JobVariables& variables = {}, int seconds = kAnswerSeconds);

// What `function` returns in a forked child: for code that may crash, hang, or load libraries for good.
Answer AskChild(const std::function<std::string()>& function, int seconds = kAnswerSeconds);

// The file that a shell would run for `name`; `name` where there is none.
std::string FindProgram(const std::string& name);

// Of a status that waitpid gave.
int ExitCodeOf(int status);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_PROCESS_H_
