// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_PROTO_WIRE_TEXT_FILE_H_
#define TERSE_PROTO_WIRE_TEXT_FILE_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace terse::wire {

// A whole file that a key of the configuration or a flag names. NOT_FOUND, "KEY: cannot read PATH: WHY", also
// for a folder; INVALID_ARGUMENT where it is larger than `most` bytes.
absl::StatusOr<std::string> ReadTextFile(std::string_view key, const std::string& path,
                                         size_t most = size_t{16} << 20);

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_TEXT_FILE_H_
