// SPDX-License-Identifier: Apache-2.0
//
// Starts a user's MPI job with a preload library under its ranks.
#ifndef TERSE_RUNTIME_CLI_JOB_H_
#define TERSE_RUNTIME_CLI_JOB_H_

#include <string>
#include <utility>
#include <vector>

namespace terse::cli {

using Words = std::vector<std::string>;
using JobVariables = std::vector<std::pair<std::string, std::string>>;  // name, value

// How the ranks of a command are started.
enum class LauncherKind {
  kNone,     // the command is the program
  kOpenMpi,  // mpirun of Open MPI: -x NAME=VALUE
  kMpich,    // Hydra: -genv NAME VALUE
};

// By what the command's first word is called, and what it says of its version. Runs it with --version when
// its name is that of a launcher.
LauncherKind DetectLauncherKind(const Words& command);

// "openmpi" or "mpich": that of the launcher, else of the libraries that the program is linked to. `asked` is
// the user's word ("auto" or one of the two). Throws CommandError when it cannot be known.
std::string DetectMpi(const Words& command, LauncherKind launcher, const std::string& asked);

// The file of the preload library for that MPI. Throws CommandError when it is not installed.
std::string FindPreloadLibrary(const std::string& mpi);

// A value for LD_PRELOAD: the library, and what this process would preload besides.
std::string WithEarlierPreload(const std::string& library);

// `command` with `variables` set in its ranks, and nowhere else where the launcher can do that. Without a
// launcher the command stays as it is.
Words WithVariables(const Words& command, LauncherKind launcher, const JobVariables& variables);

// Runs the command and waits for it. Its exit code, or 128 + the signal that ended it. `variables` are set in
// its environment. Throws CommandError when it cannot be started.
int RunJob(const Words& command, const JobVariables& variables);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_JOB_H_
