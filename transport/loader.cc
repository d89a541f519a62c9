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
#include "transport/plugin_file.h"

namespace terse::transport {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kOpenMpi = "mpi_openmpi";
constexpr std::string_view kMpich = "mpi_mpich";
// Data symbols that one family of libraries exports and the other does not.
constexpr char kOpenMpiSymbol[] = "ompi_mpi_comm_world";
constexpr char kMpichSymbol[] = "MPII_Version_string";

std::string PluginFileName(std::string_view name) {
  return absl::StrCat("libterse_transport_", std::string(name), ".so");
}

absl::StatusOr<const PluginDescriptor*> Load(const std::string& name) {
  const std::string file = PluginFileName(name);
  const absl::StatusOr<void*> loaded = LoadPlugin(file, kPluginEntryName);
  if (!loaded.ok()) {
    return absl::Status(loaded.status().code(),
                        absl::StrCat("transport '", name, "': ", loaded.status().message()));
  }
  const auto entry = reinterpret_cast<PluginEntry>(*loaded);
  const PluginDescriptor* const descriptor = entry();
  const auto refuse = [&](auto... why) {
    return absl::FailedPreconditionError(absl::StrCat("transport plug-in ", file, why...));
  };
  if (descriptor == nullptr) return refuse(": ", kPluginEntryName, "() gave nothing");
  if (descriptor->abi != kTransportAbi) {
    return refuse(" has transport ABI ", descriptor->abi, ", this Terse has ABI ", kTransportAbi,
                  "; install the plug-in of the same release");
  }
  if (descriptor->open == nullptr) return refuse(" cannot open groups");
  return descriptor;
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
  absl::StatusOr<const PluginDescriptor*> descriptor = Load(name);
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

}  // namespace

std::string ResolveTransportName(std::string_view name) {
  if (name != "mpi") return std::string(name);
  if (const std::string_view present = MpiInProcess(); !present.empty()) return std::string(present);
  if (getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return std::string(kOpenMpi);
  if (getenv("PMI_RANK") != nullptr || getenv("PMI_SIZE") != nullptr) return std::string(kMpich);
  return std::string(
      !PluginExists(PluginFileName(kOpenMpi)) && PluginExists(PluginFileName(kMpich)) ? kMpich : kOpenMpi);
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
