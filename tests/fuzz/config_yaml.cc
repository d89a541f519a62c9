// SPDX-License-Identifier: Apache-2.0
//
// YAML configurations.
#include <string>

#include "runtime/client/config_loader.h"
#include "tests/fuzz/settings_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<terse::wire::Settings> settings = terse::client::LoadSettings(text.c_str(), {});
  if (settings.ok()) {
    terse::fuzz::RequireSoundSettings(*settings);
  } else {
    terse::fuzz::RequireRefusedInWords(settings.status());
  }
  return 0;
}
