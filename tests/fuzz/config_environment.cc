// SPDX-License-Identifier: Apache-2.0
//
// Environments: a variable a line, each behind the prefix that makes it ours.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/fuzz/settings_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> environment;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    environment.push_back(absl::StrCat("TERSE_", line));
  }
  terse::wire::Settings settings;
  if (const absl::Status status = settings.SetFromEnvironment(environment); !status.ok()) {
    terse::fuzz::RequireRefusedInWords(status);
    terse::fuzz::Require(settings.Show() == terse::wire::Settings().Show(), "a refusal changes nothing");
    return 0;
  }
  terse::fuzz::RequireSoundSettings(settings);
  return 0;
}
