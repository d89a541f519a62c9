// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/input_file.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "runtime/cli/exit_code.h"

namespace terse::cli {

std::string ReadInput(const std::string& file) {
  const bool piped = file == "-";
  const std::unique_ptr<FILE, int (*)(FILE*)> owner(
      piped ? nullptr : std::fopen(file.c_str(), "rb"),
      [](FILE* f) { return f == nullptr ? 0 : std::fclose(f); });
  FILE* const in = piped ? stdin : owner.get();
  std::string text;
  bool failed = in == nullptr;
  if (!failed) {
    std::array<char, 1 << 16> part;
    while (const size_t n = std::fread(part.data(), 1, part.size(), in)) text.append(part.data(), n);
    // A folder can be opened, but not read.
    failed = std::ferror(in) != 0;
  }
  if (failed) {
    throw CommandError(kFailure,
                       "cannot read " + (piped ? "standard input" : file) + ": " + std::strerror(errno));
  }
  return text;
}

}  // namespace terse::cli
