// SPDX-License-Identifier: Apache-2.0
//
// What must hold of settings wherever they came from.
#ifndef TERSE_TESTS_FUZZ_SETTINGS_INPUT_H_
#define TERSE_TESTS_FUZZ_SETTINGS_INPUT_H_

#include <string>

#include "proto/wire/config.h"
#include "tests/fuzz/fuzz.h"

namespace terse::fuzz {

inline void RequireRefusedInWords(const absl::Status& status) {
  Require(status.code() == absl::StatusCode::kInvalidArgument, "a bad setting is INVALID_ARGUMENT");
  Require(!status.message().empty(), "a refusal says why");
}

inline void RequireSoundSettings(const wire::Settings& settings) {
  if (const absl::Status status = settings.Validate(); !status.ok()) RequireRefusedInWords(status);
  Require(!settings.Show().empty() && !wire::AgreedText(settings.config()).empty(), "settings have a text");
  wire::Config copy;
  for (const wire::ConfigKey& key : wire::ConfigKeys()) {
    const std::string text = key.get(settings.config());
    Require(key.set(text, &copy).ok(), "the text of an accepted value is accepted");
    Require(key.get(copy) == text, "the text of a value is canonical");
  }
  Require(copy == settings.config(), "the texts of all values give the configuration");
}

}  // namespace terse::fuzz

#endif  // TERSE_TESTS_FUZZ_SETTINGS_INPUT_H_
