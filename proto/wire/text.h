// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_PROTO_WIRE_TEXT_H_
#define TERSE_PROTO_WIRE_TEXT_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace terse::wire {

// Abseil's string_view is a type of its own where Abseil was compiled before C++17, as Debian's is.
inline absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_TEXT_H_
