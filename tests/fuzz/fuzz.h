// SPDX-License-Identifier: Apache-2.0
//
// What the fuzz targets share. A target is one file <name>.cc that defines LLVMFuzzerTestOneInput: it takes
// any bytes, uses them as their later user would, and ends the process when a promise does not hold.
// With TERSE_FUZZERS libFuzzer calls it, else replay.cc does, as an ordinary test.
#ifndef TERSE_TESTS_FUZZ_FUZZ_H_
#define TERSE_TESTS_FUZZ_FUZZ_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "proto/wire/bytes.h"
#include "proto/wire/types.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace terse::fuzz {

inline void Require(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

inline void RequireNone(const std::optional<std::string>& complaint) {
  if (complaint) Require(false, complaint->c_str());
}

// Of the enumerations of types.h: whether the number is one of theirs.
template <typename Enum>
bool IsNamed(Enum number) {
  return wire::Name(number) != "unknown";
}

inline wire::Bytes AsBytes(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

}  // namespace terse::fuzz

#endif  // TERSE_TESTS_FUZZ_FUZZ_H_
