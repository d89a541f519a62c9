// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/installed.h"

#include <stdlib.h>

#include <algorithm>
#include <string_view>

#include "runtime/cli/exit_code.h"
#include "runtime/cli/linked_libraries.h"

namespace terse::cli {
namespace {

namespace fs = std::filesystem;

std::string Find(const std::string& name) {
  std::string looked_at;
  std::error_code error;
  for (const fs::path& folder : InstalledFolders()) {
    if (fs::exists(folder / name, error)) return folder / name;
    looked_at += (looked_at.empty() ? "" : ", ") + folder.string();
  }
  throw CommandError(kConfigInvalid,
                     "no " + name + " in " + looked_at + "; set TERSE_PLUGIN_PATH to its folder");
}

// The names that a replacement folder answers to, without those that are links.
std::vector<std::string> ReplacedNames(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("lib") && !entry.is_symlink(error) && entry.is_regular_file(error))
      names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

const std::vector<std::string>& KnownMpis() {
  static const std::vector<std::string> mpis = {"openmpi", "mpich"};
  return mpis;
}

std::string MpiName(const std::string& mpi) { return mpi == "openmpi" ? "Open MPI" : "MPICH"; }

std::vector<fs::path> InstalledFolders() {
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
  return folders;
}

std::string FindPreloadLibrary(const std::string& mpi) { return Find("libterse_mpi_" + mpi + ".so"); }
std::string FindReplacementFolder(const std::string& mpi) {
  return fs::absolute(Find("replace_" + mpi)).lexically_normal();
}

std::string ReplacementFault(const std::string& mpi, const std::string& folder) {
  const fs::path link = fs::path(folder) / "mpi";
  const std::vector<std::string> names = ReplacedNames(folder);
  if (names.empty()) return folder + " has no library: install Terse again";
  // A plug-in that is linked to this MPI shows which one programs find.
  LinkedLibraries found;
  try {
    found = ListLinkedLibraries(Find("libterse_transport_mpi_" + mpi + ".so"));
  } catch (const CommandError&) {
  }
  std::error_code error;
  for (const std::string& name : names) {
    const fs::path real = link / name;
    const std::string here = PathOf(found, name);
    const std::string remedy =
        "; make it one to the folder of the job's MPI: ln -sfn " +
        (here.empty() ? std::string("FOLDER") : fs::path(here).parent_path().string()) + " " + link.string();
    if (!fs::exists(real, error)) {
      return link.string() + " is a link to " + fs::read_symlink(link, error).string() + ", where no " +
             name + " is" + remedy;
    }
    // Where the loader finds the folder already (it is in LD_LIBRARY_PATH), there is nothing to compare.
    if (here.empty() || fs::equivalent(here, fs::path(folder) / name, error)) continue;
    if (!fs::equivalent(here, real, error)) {
      return folder + " stands before " + fs::canonical(real, error).string() + ", and programs find " +
             here + remedy;
    }
  }
  return "";
}

std::string LauncherFault(const Words& command, const std::string& folder) {
  fs::path prefix;
  if (command.at(0).starts_with('/')) prefix = fs::path(command[0]).parent_path().parent_path();
  for (size_t i = 1; i < command.size(); ++i) {
    const std::string& word = command[i];
    if (word == "--noprefix" || word == "-noprefix") return "";
    if ((word == "--prefix" || word == "-prefix") && i + 1 < command.size()) prefix = command[i + 1];
  }
  if (prefix.empty()) return "";
  std::error_code error;
  for (const char* library_folder : {"lib", "lib64"}) {
    for (const std::string& name : ReplacedNames(folder)) {
      if (fs::exists(prefix / library_folder / name, error)) {
        return "mpirun puts " + (prefix / library_folder).string() +
               " before every other folder of libraries when it is started by its path or with --prefix, so "
               "the "
               "job would find MPI there and not in " +
               folder + "; start it by name, with its folder in PATH";
      }
    }
  }
  return "";
}

}  // namespace terse::cli
