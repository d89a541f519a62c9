// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/launch_line.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace terse::cli {
namespace {

// How many words stand behind an option, where it is not none: of mpirun (Open MPI) and of Hydra, which both
// take one hyphen for two.
const std::map<std::string_view, size_t>& ArgumentsOfOptions() {
  static const std::map<std::string_view, size_t> options = {// both
                                                             {"n", 1},
                                                             {"np", 1},
                                                             {"host", 1},
                                                             {"hosts", 1},
                                                             {"H", 1},
                                                             {"hostfile", 1},
                                                             {"machinefile", 1},
                                                             {"f", 1},
                                                             {"wdir", 1},
                                                             {"wd", 1},
                                                             {"path", 1},
                                                             {"bind-to", 1},
                                                             {"map-by", 1},
                                                             {"configfile", 1},
                                                             // Open MPI
                                                             {"c", 1},
                                                             {"N", 1},
                                                             {"x", 1},
                                                             {"mca", 2},
                                                             {"gmca", 2},
                                                             {"rank-by", 1},
                                                             {"prefix", 1},
                                                             {"npernode", 1},
                                                             {"npersocket", 1},
                                                             {"tune", 1},
                                                             {"am", 1},
                                                             {"app", 1},
                                                             {"timeout", 1},
                                                             {"output-filename", 1},
                                                             {"rankfile", 1},
                                                             {"rf", 1},
                                                             {"cpu-set", 1},
                                                             {"slot-list", 1},
                                                             {"stdin", 1},
                                                             {"max-restarts", 1},
                                                             {"default-hostfile", 1},
                                                             {"personality", 1},
                                                             {"ompi-server", 1},
                                                             {"report-pid", 1},
                                                             {"report-uri", 1},
                                                             {"set-cwd-to-session-dir", 0},
                                                             // Hydra
                                                             {"genv", 2},
                                                             {"env", 2},
                                                             {"genvlist", 1},
                                                             {"envlist", 1},
                                                             {"ppn", 1},
                                                             {"iface", 1},
                                                             {"launcher", 1},
                                                             {"launcher-exec", 1},
                                                             {"rmk", 1},
                                                             {"profile", 0},
                                                             {"outfile-pattern", 1},
                                                             {"errfile-pattern", 1},
                                                             {"umask", 1},
                                                             {"membind", 1},
                                                             {"topolib", 1},
                                                             {"gpus-per-proc", 1}};
  return options;
}

bool IsAssignment(const std::string& word) {
  const size_t equals = word.find('=');
  return equals != std::string::npos && equals > 0 && word.find('/') > equals;
}

}  // namespace

Words ProgramWords(const Words& command, bool launcher) {
  size_t at = 0;
  if (launcher) {
    for (at = 1; at < command.size() && command[at].starts_with('-'); ++at) {
      const std::string_view word = command[at];
      const std::string_view name = word.substr(std::min(word.find_first_not_of('-'), word.size()));
      const auto option = ArgumentsOfOptions().find(name);
      if (option != ArgumentsOfOptions().end()) at += option->second;
    }
  }
  while (at < command.size() && std::filesystem::path(command[at]).filename() == "env") {
    ++at;
    while (at < command.size() && (IsAssignment(command[at]) || command[at] == "-i")) ++at;
  }
  return at < command.size() ? Words(command.begin() + static_cast<std::ptrdiff_t>(at), command.end())
                             : Words();
}

}  // namespace terse::cli
