// SPDX-License-Identifier: Apache-2.0
//
// A plug-in for the loader's tests, of the ABI TERSE_TEST_ABI, that refuses to open groups.
#include "transport/transport.h"

extern "C" __attribute__((visibility("default"))) const terse::transport::PluginDescriptor*
terse_transport_plugin() {
  static const terse::transport::PluginDescriptor descriptor{
      .abi = TERSE_TEST_ABI,
      .name = "test",
      .build_id = "test",
      .open = [](const terse::transport::OpenOptions*, absl::Status* error) -> terse::transport::Group* {
        *error = absl::ResourceExhaustedError("refused by the test's plug-in");
        return nullptr;
      },
  };
  return &descriptor;
}
