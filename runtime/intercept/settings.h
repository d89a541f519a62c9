// SPDX-License-Identifier: Apache-2.0
//
// What a preloaded job is configured with, as far as this library must know it, and what it adds: sums stay
// sums, and a call never times out by itself.
#ifndef TERSE_RUNTIME_INTERCEPT_SETTINGS_H_
#define TERSE_RUNTIME_INTERCEPT_SETTINGS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/intercept/eligibility.h"
#include "runtime/intercept/terse_api.h"

namespace terse::intercept {

struct Settings {
  std::string yaml;   // for terse_group_open_fcomm; the environment goes over it, as always
  std::string error;  // not empty: what keeps this job from being compressed
  Rules rules;
  bool drains = true;  // Exchange::Settings

  // Of what decides which calls are compressed: the same on all ranks.
  uint64_t Hash() const {
    return (static_cast<uint64_t>(rules.min_elements) * 2 + (rules.doubles ? 1 : 0)) * 0x9e3779b97f4a7c15u;
  }
};

// Whether the environment asks for compression: TERSE_PRELOAD says so, or it is not set and a configuration,
// a method or a compressor is named.
bool CompressionIsAskedFor();

// A variable that is 1 or true, or 0, false, empty or not set (`text` is null): others are off, and false is
// returned.
bool ParseSwitch(const char* text, bool* on);

// Whether TERSE_PROGRESS_THREAD is on: MPI's thread level is raised, where the program asks for less. A word
// that is no switch is said on stderr.
bool ProgressThreadIsAskedFor();
// Whether TERSE_DOUBLES is: sums of double precision are compressed like those of floats.
bool DoublesAreAskedFor();

// Of what terse_config_show says of the file and the environment.
Settings ReadSettings(const TerseApi& api);
Settings ParseSettings(std::string_view shown);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_SETTINGS_H_
