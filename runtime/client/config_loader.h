// SPDX-License-Identifier: Apache-2.0
//
// Where a group's configuration comes from: YAML and the environment, in the precedence of
// proto/wire/config.h. Threads: CurrentEnvironment reads the process's environment, which no other
// thread may change meanwhile; LoadSettings keeps nothing.
//
// YAML is taken as plain data: one document, a map of keys and of sections with keys; values are scalars
// or, for lists, sequences of scalars. What configuration has no use for (anchors, aliases, tags, nulls,
// deeper nesting) is refused, so no text makes the reader recurse or expand.
#ifndef TERSE_RUNTIME_CLIENT_CONFIG_LOADER_H_
#define TERSE_RUNTIME_CLIENT_CONFIG_LOADER_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/config.h"

namespace terse::client {

inline constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// The defaults, under `yaml_text` (null: under the file that TERSE_CONFIG in `environment` names, if it
// is there and not empty; either counts as Origin::kFile), under the TERSE_* variables of `environment`
// ("NAME=value"). Rules between keys are left to Settings::Validate, so that a flag may still come.
//   NOT_FOUND         the file cannot be opened or read; names the path and the reason
//   INVALID_ARGUMENT  names the file, line and column (or the variable), the key, and what is allowed
absl::StatusOr<wire::Settings> LoadSettings(const char* yaml_text, absl::Span<const std::string> environment);

// This process's environment, as LoadSettings takes it.
std::vector<std::string> CurrentEnvironment();

}  // namespace terse::client

#endif  // TERSE_RUNTIME_CLIENT_CONFIG_LOADER_H_
