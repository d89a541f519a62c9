// SPDX-License-Identifier: Apache-2.0
//
// What is in a saved state, for people and for `terse state show`.
#ifndef TERSE_RUNTIME_ENGINE_STATE_SHOW_H_
#define TERSE_RUNTIME_ENGINE_STATE_SHOW_H_

#include <string>

#include "absl/status/statusor.h"

namespace terse::engine {

// JSON, see docs/cli.md, of the newest save in `directory` that is whole, or else of the files that are
// there. Reads every byte and checks every checksum. Needs no group; any thread. Errors as of
// Engine::LoadState.
absl::StatusOr<std::string> ShowState(const std::string& directory);

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_STATE_SHOW_H_
