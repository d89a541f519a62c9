// SPDX-License-Identifier: Apache-2.0
#include "transport/plugin_file.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace terse::transport {
namespace {

namespace fs = std::filesystem;

// The folder of the object that this code is linked into: libterse.so, or the program itself.
fs::path OwnFolder() {
  Dl_info info;
  link_map* map = nullptr;
  std::string file = "/proc/self/exe";
  const auto self = reinterpret_cast<const void*>(&PluginExists);
  if (dladdr1(self, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0 && map != nullptr &&
      map->l_name[0] != '\0') {
    file = map->l_name;  // empty for the program, whose recorded name need not be a path
  }
  std::error_code error;
  const fs::path path = fs::canonical(file, error);
  return error ? fs::path() : path.parent_path();
}

std::vector<fs::path> SearchFolders() {
  std::vector<fs::path> folders;
  if (const char* path = secure_getenv("TERSE_PLUGIN_PATH"); path != nullptr) {
    for (const std::string& folder : std::vector<std::string>(absl::StrSplit(path, ':', absl::SkipEmpty()))) {
      folders.emplace_back(folder);
    }
  }
  if (const fs::path own = OwnFolder(); !own.empty()) {
    const fs::path above = own.parent_path();
    for (const fs::path& folder : {own, own / "terse", above / "lib" / "terse",
                                   above / TERSE_INSTALL_LIBDIR / "terse", above / "lib"}) {
      if (std::find(folders.begin(), folders.end(), folder) == folders.end()) folders.push_back(folder);
    }
  }
  return folders;
}

}  // namespace

bool IsPluginName(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

bool PluginExists(const std::string& file_name) {
  const std::vector<fs::path> folders = SearchFolders();
  return std::any_of(folders.begin(), folders.end(), [&](const fs::path& folder) {
    std::error_code error;
    return fs::exists(folder / file_name, error);
  });
}

absl::StatusOr<void*> LoadPlugin(const std::string& file_name, const char* entry) {
  std::vector<std::string> looked_at;
  for (const fs::path& folder : SearchFolders()) {
    const fs::path file = folder / file_name;
    std::error_code error;
    if (!fs::exists(file, error)) {
      looked_at.push_back(folder.string());
      continue;
    }
    // Local: the symbols of one plug-in's libraries must not answer for another's.
    void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
      return absl::FailedPreconditionError(
          absl::StrCat("cannot load plug-in ", file.string(), ": ", dlerror()));
    void* const symbol = dlsym(handle, entry);
    if (symbol != nullptr) return symbol;
    dlclose(handle);
    return absl::FailedPreconditionError(
        absl::StrCat(file.string(), " is no such plug-in: it does not export ", entry));
  }
  return absl::NotFoundError(
      absl::StrCat("no ", file_name, " in ", absl::StrJoin(looked_at, ", "),
                   "; install its package, or set TERSE_PLUGIN_PATH to the folder that has it"));
}

}  // namespace terse::transport
