// SPDX-License-Identifier: Apache-2.0
//
// Where the parts of Terse are that a job loads: the preload libraries, and the folders that stand before an
// MPI.
#ifndef TERSE_RUNTIME_CLI_INSTALLED_H_
#define TERSE_RUNTIME_CLI_INSTALLED_H_

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/cli/process.h"

namespace terse::cli {

// The MPIs that Terse knows: "openmpi", "mpich".
const std::vector<std::string>& KnownMpis();
std::string MpiName(const std::string& mpi);  // "Open MPI"

// TERSE_PLUGIN_PATH's, then those beside this command.
std::vector<std::filesystem::path> InstalledFolders();

// The preload library for that MPI, and the folder that replaces it for programs that load it by dlopen.
// Throw CommandError(kConfigInvalid), which names where was looked, when it is not installed.
std::string FindPreloadLibrary(const std::string& mpi);
std::string FindReplacementFolder(const std::string& mpi);

// Why a replacement folder would not do: its link `mpi` leads to no MPI, or to another than the one that
// programs find here. Empty when it would.
std::string ReplacementFault(const std::string& mpi, const std::string& folder);

// What a launcher of Open MPI does against the folder: it puts its own in front of LD_LIBRARY_PATH when it is
// started by path or with --prefix. Empty when it does not.
std::string LauncherFault(const Words& command, const std::string& folder);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_INSTALLED_H_
