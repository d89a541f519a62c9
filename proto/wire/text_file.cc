// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/text_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/wire/text.h"

namespace terse::wire {

absl::StatusOr<std::string> ReadTextFile(std::string_view key, const std::string& path, size_t most) {
  const auto failed = [&] {
    return absl::NotFoundError(absl::StrCat(View(key), ": cannot read ", path, ": ", std::strerror(errno)));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (file == nullptr) return failed();
  std::string text;
  char part[16384];
  while (const size_t size = std::fread(part, 1, sizeof part, file.get())) {
    text.append(part, size);
    if (text.size() > most) {
      return absl::InvalidArgumentError(
          absl::StrCat(View(key), ": ", path, " is larger than ", most, " bytes"));
    }
  }
  if (std::ferror(file.get()) != 0) return failed();
  return text;
}

}  // namespace terse::wire
