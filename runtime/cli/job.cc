// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/job.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "runtime/cli/environment.h"
#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

namespace fs = std::filesystem;

std::vector<char*> Arguments(const Words& command) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  return arguments;
}

int ExitCodeOf(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

int WaitFor(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR)
      throw CommandError(kFailure, std::string("waiting for the job: ") + std::strerror(errno));
  }
  return ExitCodeOf(status);
}

// What a command writes to stdout and stderr; empty when it cannot be run.
std::string OutputOf(const Words& command) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return "";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    execvp(command[0].c_str(), Arguments(command).data());
    _exit(127);
  }
  close(ends[1]);
  std::string output;
  std::array<char, 4096> buffer;
  for (ssize_t n; child > 0 && (n = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    output.append(buffer.data(), static_cast<size_t>(n));
  }
  close(ends[0]);
  if (child > 0) WaitFor(child);
  return output;
}

bool Contains(std::string_view text, std::string_view word) {
  return text.find(word) != std::string_view::npos;
}

// The file that a shell would run for `name`.
std::string FindProgram(const std::string& name) {
  if (Contains(name, "/")) return name;
  std::string_view path = std::getenv("PATH") != nullptr ? std::getenv("PATH") : "";
  while (!path.empty()) {
    const size_t end = std::min(path.find(':'), path.size());
    const fs::path file = fs::path(path.substr(0, end)) / name;
    if (access(file.c_str(), X_OK) == 0) return file;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return name;
}

}  // namespace

LauncherKind DetectLauncherKind(const Words& command) {
  const std::string name = fs::path(command.at(0)).filename();
  if (!name.starts_with("mpirun") && !name.starts_with("mpiexec") && name != "orterun" && name != "prterun") {
    return LauncherKind::kNone;
  }
  const std::string version = OutputOf({command[0], "--version"});
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
  const std::string libraries = OutputOf({"ldd", FindProgram(command.at(0))});
  if (Contains(libraries, "libmpi.so.40") || Contains(libraries, "libopen-pal")) return "openmpi";
  if (Contains(libraries, "libmpich") || Contains(libraries, "libmpi.so.12")) return "mpich";
  throw CommandError(kUsage,
                     "'" + command.at(0) +
                         "' is no MPI launcher and is linked to no MPI that is known; start it by mpirun, or "
                         "say --mpi openmpi or --mpi mpich");
}

std::string FindPreloadLibrary(const std::string& mpi) {
  const std::string name = "libterse_mpi_" + mpi + ".so";
  std::error_code error;
  const fs::path own = fs::canonical("/proc/self/exe", error).parent_path();
  std::vector<fs::path> folders;
  std::string_view path =
      secure_getenv("TERSE_PLUGIN_PATH") != nullptr ? secure_getenv("TERSE_PLUGIN_PATH") : "";
  while (!path.empty()) {
    const size_t end = std::min(path.find(':'), path.size());
    if (end > 0) folders.emplace_back(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  for (const char* folder : {"lib/terse", TERSE_INSTALL_LIBDIR "/terse", "lib"}) {
    folders.push_back(own.parent_path() / folder);
  }
  std::string looked_at;
  for (const fs::path& folder : folders) {
    if (fs::exists(folder / name, error)) return folder / name;
    looked_at += (looked_at.empty() ? "" : ", ") + folder.string();
  }
  throw CommandError(kConfigInvalid,
                     "no " + name + " in " + looked_at + "; set TERSE_PLUGIN_PATH to its folder");
}

Words WithVariables(const Words& command, LauncherKind launcher,
                    const std::vector<std::pair<std::string, std::string>>& variables) {
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

int RunJob(const Words& command, const std::vector<std::pair<std::string, std::string>>& variables) {
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

std::string WithEarlierPreload(const std::string& library) {
  const std::optional<std::string> before = GetEnvironment("LD_PRELOAD");
  return before && !before->empty() ? library + ":" + *before : library;
}

}  // namespace terse::cli
