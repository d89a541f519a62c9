// SPDX-License-Identifier: Apache-2.0
//
// Starts a user's MPI job with Terse under its ranks.
#ifndef TERSE_RUNTIME_CLI_JOB_H_
#define TERSE_RUNTIME_CLI_JOB_H_

#include <string>

#include "runtime/cli/process.h"

namespace terse::cli {

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

// What puts Terse under the ranks of a job: LD_PRELOAD, and with `replace_mpi` also LD_LIBRARY_PATH, in front
// of what this process has there. Throws CommandError when what is needed is not installed, or would not be
// found.
JobVariables InterceptVariables(const Words& command, LauncherKind launcher, const std::string& mpi,
                                bool replace_mpi);

// `command` with `variables` set in its ranks, and nowhere else where the launcher can do that. Without a
// launcher the command stays as it is.
Words WithVariables(const Words& command, LauncherKind launcher, const JobVariables& variables);

// Runs the command and waits for it. Its exit code, or 128 + the signal that ended it. `variables` are set in
// its environment. Throws CommandError when it cannot be started.
int RunJob(const Words& command, const JobVariables& variables);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_JOB_H_
