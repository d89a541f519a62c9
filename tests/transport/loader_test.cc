// SPDX-License-Identifier: Apache-2.0
#include "transport/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace terse::transport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// With the search path at the test's own plug-ins, and no sign of a launcher.
class Loader : public testing::Test {
 protected:
  Loader() {
    setenv("TERSE_PLUGIN_PATH", "/nonexistent:" TERSE_TEST_PLUGINS, 1);
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE"}) unsetenv(name);
  }
};

std::string Error(const std::string& name, absl::StatusCode code) {
  const auto group = OpenGroup(name, {});
  EXPECT_EQ(group.status().code(), code) << group.status();
  return std::string(group.status().message());
}

TEST_F(Loader, MissingPluginListsWhereItLooked) {
  EXPECT_THAT(Error("nowhere", absl::StatusCode::kNotFound),
              AllOf(HasSubstr("libterse_transport_nowhere.so"), HasSubstr("/nonexistent"),
                    HasSubstr(TERSE_TEST_PLUGINS), HasSubstr("/lib/terse"), HasSubstr("install"),
                    HasSubstr("TERSE_PLUGIN_PATH")));
}

TEST_F(Loader, OtherAbiIsRefusedWithBothNumbers) {
  EXPECT_THAT(Error("other_abi", absl::StatusCode::kFailedPrecondition),
              AllOf(HasSubstr("has transport ABI " + std::to_string(kTransportAbi + 7)),
                    HasSubstr("this Terse has ABI " + std::to_string(kTransportAbi))));
}

TEST_F(Loader, LibraryThatIsNoPlugin) {
  EXPECT_THAT(Error("no_plugin", absl::StatusCode::kFailedPrecondition),
              AllOf(HasSubstr("is no such plug-in"), HasSubstr(kPluginEntryName)));
}

TEST_F(Loader, FileThatIsNoLibrary) {
  const std::string file = std::string(TERSE_TEST_PLUGINS) + "/libterse_transport_garbage.so";
  std::ofstream(file) << "not ELF";
  EXPECT_THAT(Error("garbage", absl::StatusCode::kFailedPrecondition), HasSubstr(file));
  std::filesystem::remove(file);
}

TEST_F(Loader, NamesCannotLeadElsewhere) {
  EXPECT_THAT(Error("../lib/x", absl::StatusCode::kInvalidArgument), HasSubstr("a-z"));
  EXPECT_THAT(Error("", absl::StatusCode::kInvalidArgument), HasSubstr("a-z"));
}

TEST_F(Loader, ErrorOfThePluginArrives) {
  EXPECT_EQ(Error("refusing", absl::StatusCode::kResourceExhausted), "refused by the test's plug-in");
}

TEST_F(Loader, MpiFollowsTheLauncher) {
  setenv("PMI_RANK", "0", 1);
  EXPECT_EQ(ResolveTransportName("mpi"), "mpi_mpich");
  setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
  EXPECT_EQ(ResolveTransportName("mpi"), "mpi_openmpi");
}

TEST_F(Loader, OtherNamesAreTakenAsTheyAre) {
  for (const char* name : {"inproc", "mpi_mpich", "mpi_openmpi", "grpc"}) {
    EXPECT_EQ(ResolveTransportName(name), name);
  }
}

}  // namespace
}  // namespace terse::transport
