// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/terse_api.h"

#include <dlfcn.h>

#include <initializer_list>

namespace terse::intercept {
namespace {

std::string FolderOfThisLibrary() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&LoadTerse), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

struct Loaded {
  TerseApi api{};
  std::string error;
};

Loaded Load() {
  Loaded loaded;
  const std::string folder = FolderOfThisLibrary();
  void* library = nullptr;
  for (const std::string& path :
       {folder + "/libterse.so", folder + "/../libterse.so", std::string("libterse.so")}) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    const char* const why = dlerror();
    loaded.error = std::string("libterse.so cannot be loaded: ") + (why == nullptr ? "not found" : why);
    return loaded;
  }
#define TERSE_API_FIND(name)                                                                     \
  loaded.api.name = reinterpret_cast<decltype(loaded.api.name)>(dlsym(library, "terse_" #name)); \
  if (loaded.api.name == nullptr) loaded.error = "libterse.so has no terse_" #name;
  TERSE_API_FUNCTIONS(TERSE_API_FIND)
#undef TERSE_API_FIND
  if (loaded.error.empty() && loaded.api.version() != TERSE_VERSION_NUMBER) {
    loaded.error = "libterse.so is version " + std::to_string(loaded.api.version()) +
                   ", and the preload library " + std::to_string(TERSE_VERSION_NUMBER);
  }
  return loaded;
}

}  // namespace

const TerseApi* LoadTerse(std::string* error) {
  static const Loaded* const loaded = new Loaded(Load());
  if (loaded->error.empty()) return &loaded->api;
  *error = loaded->error;
  return nullptr;
}

}  // namespace terse::intercept
