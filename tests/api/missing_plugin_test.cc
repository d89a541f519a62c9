// SPDX-License-Identifier: Apache-2.0
//
// A transport whose plug-in is not installed. The library looks beside itself, where the build tree has
// the plug-ins, so the test uses a copy of it that stands alone.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <terse/terse.h>

#include <filesystem>
#include <string>

namespace terse::testing {
namespace {

using ::testing::HasSubstr;

template <typename Function>
Function* Symbol(void* library, const char* name) {
  void* const symbol = dlsym(library, name);
  EXPECT_NE(symbol, nullptr) << name;
  return reinterpret_cast<Function*>(symbol);
}

TEST(MissingPlugin, IsNotFoundAndSaysWhereItLooked) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / ("terse_alone_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder / "plugins");
  const std::filesystem::path copy = folder / "libterse.so.0";
  std::filesystem::copy_file(TERSE_LIBRARY, copy, std::filesystem::copy_options::overwrite_existing);
  setenv("TERSE_PLUGIN_PATH", (folder / "plugins").c_str(), 1);

  void* const library = dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  const auto open = Symbol<decltype(terse_group_open)>(library, "terse_group_open");
  const auto last_error = Symbol<decltype(terse_last_error)>(library, "terse_last_error");
  for (const std::string name : {"mpi", "mpi_mpich"}) {
    terse_group_t* group = nullptr;
    EXPECT_EQ(open(("transport: {name: " + name + "}").c_str(), &group), TERSE_NOT_FOUND);
    EXPECT_EQ(group, nullptr);
    EXPECT_THAT(last_error(), HasSubstr("libterse_transport_mpi_"));
    EXPECT_THAT(last_error(), HasSubstr((folder / "plugins").string()));
  }
  std::filesystem::remove_all(folder);
}

TEST(MissingPlugin, AFileThatIsNoPluginIsRefused) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / ("terse_bad_plugin_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  // Any shared library will do that lacks the entry point.
  std::filesystem::copy_file(TERSE_LIBRARY, folder / "libterse_transport_mpi_mpich.so",
                             std::filesystem::copy_options::overwrite_existing);
  setenv("TERSE_PLUGIN_PATH", folder.c_str(), 1);
  const std::filesystem::path copy = folder / "libterse.so.0";
  std::filesystem::copy_file(TERSE_LIBRARY, copy, std::filesystem::copy_options::overwrite_existing);
  void* const library = dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  terse_group_t* group = nullptr;
  EXPECT_NE(
      Symbol<decltype(terse_group_open)>(library, "terse_group_open")("transport: {name: mpi_mpich}", &group),
      TERSE_OK);
  EXPECT_EQ(group, nullptr);
  EXPECT_THAT(Symbol<decltype(terse_last_error)>(library, "terse_last_error")(),
              HasSubstr("libterse_transport_mpi_mpich.so"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace terse::testing
