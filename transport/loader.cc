// SPDX-License-Identifier: Apache-2.0
#include "transport/loader.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "transport/inproc/inproc.h"
#include "transport/inproc/mutex.h"

namespace terse::transport {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kOpenMpi = "mpi_openmpi";
constexpr std::string_view kMpich = "mpi_mpich";
// Data symbols that one family of libraries exports and the other does not.
constexpr char kOpenMpiSymbol[] = "ompi_mpi_comm_world";
constexpr char kMpichSymbol[] = "MPII_Version_string";

// A name becomes part of a file name, so it cannot lead out of the folders that are searched.
bool IsPluginName(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// The folder of the object that this code is linked into: libterse.so, or the program itself.
fs::path OwnFolder() {
  Dl_info info;
  link_map* map = nullptr;
  std::string file = "/proc/self/exe";
  const auto self = reinterpret_cast<const void*>(&OpenGroup);
  if (dladdr1(self, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0 && map != nullptr &&
      map->l_name[0] != '\0') {
    file = map->l_name;  // empty for the program, whose recorded name need not be a path
  }
  std::error_code error;
  const fs::path path = fs::canonical(file, error);
  return error ? fs::path() : path.parent_path();
}

std::string PluginFileName(std::string_view name) {
  return absl::StrCat("libterse_transport_", std::string(name), ".so");
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

absl::StatusOr<const PluginDescriptor*> LoadFile(const std::string& file) {
  // Local: the symbols of one plug-in's libraries must not answer for another's.
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot load transport plug-in ", file, ": ", dlerror()));
  }
  const auto entry = reinterpret_cast<PluginEntry>(dlsym(handle, kPluginEntryName));
  const PluginDescriptor* descriptor = entry == nullptr ? nullptr : entry();
  absl::Status refused;
  if (entry == nullptr) {
    refused = absl::FailedPreconditionError(
        absl::StrCat(file, " is no transport plug-in: it does not export ", kPluginEntryName));
  } else if (descriptor == nullptr) {
    refused = absl::FailedPreconditionError(
        absl::StrCat("transport plug-in ", file, ": ", kPluginEntryName, "() gave nothing"));
  } else if (descriptor->abi != kTransportAbi) {
    refused = absl::FailedPreconditionError(
        absl::StrCat("transport plug-in ", file, " has transport ABI ", descriptor->abi,
                     ", this Terse has ABI ", kTransportAbi, "; install the plug-in of the same release"));
  } else if (descriptor->open == nullptr) {
    refused = absl::FailedPreconditionError(absl::StrCat("transport plug-in ", file, " cannot open groups"));
  }
  if (refused.ok()) return descriptor;
  dlclose(handle);
  return refused;
}

absl::StatusOr<const PluginDescriptor*> FindAndLoad(const std::string& name) {
  const std::string file_name = PluginFileName(name);
  std::vector<std::string> looked_at;
  for (const fs::path& folder : SearchFolders()) {
    const fs::path file = folder / file_name;
    std::error_code error;
    if (fs::exists(file, error)) return LoadFile(file.string());
    looked_at.push_back(folder.string());
  }
  return absl::NotFoundError(
      absl::StrCat("transport '", name, "': no ", file_name, " in ", absl::StrJoin(looked_at, ", "),
                   "; install the transport's package, or set TERSE_PLUGIN_PATH to the "
                   "folder that has it"));
}

// The plug-ins of this process. They stay loaded: their code may run until the process ends.
absl::StatusOr<const PluginDescriptor*> FindPlugin(const std::string& name) {
  struct Table {
    Mutex mutex;
    std::map<std::string, const PluginDescriptor*> loaded ABSL_GUARDED_BY(mutex);
  };
  static Table* const table = new Table;
  MutexLock lock(table->mutex);
  if (const auto found = table->loaded.find(name); found != table->loaded.end()) return found->second;
  absl::StatusOr<const PluginDescriptor*> descriptor = FindAndLoad(name);
  if (descriptor.ok()) table->loaded.emplace(name, *descriptor);
  return descriptor;
}

// The MPI that is in the process, or empty. Linked libraries answer to RTLD_DEFAULT; those that an
// interpreter loaded privately only by their own handle.
std::string_view MpiInProcess() {
  if (dlsym(RTLD_DEFAULT, kOpenMpiSymbol) != nullptr) return kOpenMpi;
  if (dlsym(RTLD_DEFAULT, kMpichSymbol) != nullptr) return kMpich;
  std::vector<std::string> candidates;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* list) {
        const std::string file = fs::path(info->dlpi_name).filename().string();
        if (file.rfind("libmpi", 0) == 0)
          static_cast<std::vector<std::string>*>(list)->push_back(info->dlpi_name);
        return 0;
      },
      &candidates);
  for (const std::string& file : candidates) {
    void* handle = dlopen(file.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (handle == nullptr) continue;
    const bool open_mpi = dlsym(handle, kOpenMpiSymbol) != nullptr;
    const bool mpich = dlsym(handle, kMpichSymbol) != nullptr;
    dlclose(handle);
    if (open_mpi) return kOpenMpi;
    if (mpich) return kMpich;
  }
  return {};
}

bool PluginExists(std::string_view name) {
  const std::string file_name = PluginFileName(name);
  const std::vector<fs::path> folders = SearchFolders();
  return std::any_of(folders.begin(), folders.end(), [&](const fs::path& folder) {
    std::error_code error;
    return fs::exists(folder / file_name, error);
  });
}

}  // namespace

std::string ResolveTransportName(std::string_view name) {
  if (name != "mpi") return std::string(name);
  if (const std::string_view present = MpiInProcess(); !present.empty()) return std::string(present);
  if (getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return std::string(kOpenMpi);
  if (getenv("PMI_RANK") != nullptr || getenv("PMI_SIZE") != nullptr) return std::string(kMpich);
  return std::string(!PluginExists(kOpenMpi) && PluginExists(kMpich) ? kMpich : kOpenMpi);
}

absl::StatusOr<std::unique_ptr<Group>> OpenGroup(std::string_view name, const OpenOptions& options) {
  if (name == "inproc") return OpenInproc(options);
  const std::string resolved = ResolveTransportName(name);
  if (!IsPluginName(resolved)) {
    return absl::InvalidArgumentError(
        absl::StrCat("transport '", resolved, "': a transport's name has only a-z, 0-9 and _"));
  }
  absl::StatusOr<const PluginDescriptor*> plugin = FindPlugin(resolved);
  if (!plugin.ok()) return plugin.status();
  absl::Status error;
  std::unique_ptr<Group> group((*plugin)->open(&options, &error));
  if (group != nullptr) return group;
  if (error.ok()) error = absl::InternalError(absl::StrCat("transport '", resolved, "' opened no group"));
  return error;
}

}  // namespace terse::transport
