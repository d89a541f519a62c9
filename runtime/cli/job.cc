// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/job.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/cli/environment.h"
#include "runtime/cli/exit_code.h"
#include "runtime/cli/installed.h"

namespace terse::cli {
namespace {

namespace fs = std::filesystem;

std::vector<char*> Arguments(const Words& command) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  return arguments;
}

int WaitFor(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR)
      throw CommandError(kFailure, std::string("waiting for the job: ") + std::strerror(errno));
  }
  return ExitCodeOf(status);
}

// A value for a list with ':' between: `first`, and what this process has there.
std::string BeforeEarlier(const std::string& variable, const std::string& first) {
  const std::optional<std::string> before = GetEnvironment(variable);
  return before && !before->empty() ? first + ":" + *before : first;
}

bool Contains(std::string_view text, std::string_view word) {
  return text.find(word) != std::string_view::npos;
}

}  // namespace

LauncherKind DetectLauncherKind(const Words& command) {
  const std::string name = fs::path(command.at(0)).filename();
  if (!name.starts_with("mpirun") && !name.starts_with("mpiexec") && name != "orterun" && name != "prterun") {
    return LauncherKind::kNone;
  }
  // Both MPIs' packages give their launcher many names and one file, whose own name leaves no question.
  std::error_code none;
  const std::string file = fs::canonical(FindProgram(command[0]), none).filename();
  if (file == "orterun" || file == "prterun") return LauncherKind::kOpenMpi;
  if (file == "mpiexec.hydra") return LauncherKind::kMpich;
  const std::string version = Ask({command[0], "--version"}).text;
  if (Contains(version, "Open MPI") || Contains(version, "OpenRTE") || Contains(version, "PRRTE")) {
    return LauncherKind::kOpenMpi;
  }
  if (Contains(version, "HYDRA") || Contains(version, "MPICH") || Contains(version, "Intel(R) MPI")) {
    return LauncherKind::kMpich;
  }
  throw CommandError(kFailure, "'" + command[0] + " --version' names neither Open MPI nor MPICH (Hydra)");
}

std::string DetectMpi(const Words& command, LauncherKind launcher, const std::string& asked) {
  if (asked != "auto") return asked;
  if (launcher == LauncherKind::kOpenMpi) return "openmpi";
  if (launcher == LauncherKind::kMpich) return "mpich";
  const std::string libraries = Ask({"ldd", FindProgram(command.at(0))}).text;
  if (Contains(libraries, "libmpi.so.40") || Contains(libraries, "libopen-pal")) return "openmpi";
  if (Contains(libraries, "libmpich") || Contains(libraries, "libmpi.so.12")) return "mpich";
  throw CommandError(kUsage,
                     "'" + command.at(0) +
                         "' is no MPI launcher and is linked to no MPI that is known; start it by mpirun, or "
                         "say --mpi openmpi or --mpi mpich");
}

Words WithVariables(const Words& command, LauncherKind launcher, const JobVariables& variables) {
  if (launcher == LauncherKind::kNone) return command;
  Words result{command.at(0)};
  for (const auto& [name, value] : variables) {
    if (launcher == LauncherKind::kOpenMpi) {
      result.insert(result.end(), {"-x", name + "=" + value});
    } else {
      result.insert(result.end(), {"-genv", name, value});
    }
  }
  result.insert(result.end(), command.begin() + 1, command.end());
  return result;
}

int RunJob(const Words& command, const JobVariables& variables) {
  const std::vector<char*> arguments = Arguments(command);
  // What fails in exec comes back through a pipe that a started program closes.
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw CommandError(kFailure, std::strerror(errno));
  const pid_t child = fork();
  if (child < 0) throw CommandError(kFailure, std::string("cannot fork: ") + std::strerror(errno));
  if (child == 0) {
    for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
    execvp(arguments[0], arguments.data());
    const int error = errno;
    (void)!write(ends[1], &error, sizeof(error));
    _exit(127);
  }
  close(ends[1]);
  int error = 0;
  const bool failed = read(ends[0], &error, sizeof(error)) == sizeof(error);
  close(ends[0]);
  const int code = WaitFor(child);
  if (failed) throw CommandError(kUsage, "cannot run '" + command.at(0) + "': " + std::strerror(error));
  return code;
}

JobVariables InterceptVariables(const Words& command, LauncherKind launcher, const std::string& mpi,
                                bool replace_mpi) {
  JobVariables variables = {{"LD_PRELOAD", BeforeEarlier("LD_PRELOAD", FindPreloadLibrary(mpi))}};
  if (replace_mpi) {
    const std::string folder = FindReplacementFolder(mpi);
    std::string fault = ReplacementFault(mpi, folder);
    if (fault.empty() && launcher == LauncherKind::kOpenMpi) fault = LauncherFault(command, folder);
    if (!fault.empty()) throw CommandError(kConfigInvalid, "--replace-mpi: " + fault);
    variables.emplace_back("LD_LIBRARY_PATH", BeforeEarlier("LD_LIBRARY_PATH", folder));
  }
  return variables;
}

}  // namespace terse::cli
