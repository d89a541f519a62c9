// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/service/tokens.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace terse::controller {
namespace {

constexpr size_t kLeastToken = 16;

// Looks at all of both.
bool Equal(std::string_view a, std::string_view b) {
  unsigned differ = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    const char other = b.empty() ? '\0' : b[i % b.size()];
    differ |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(other);
  }
  return differ == 0;
}

}  // namespace

std::string_view Name(Role role) {
  switch (role) {
    case Role::kRead:
      return "read";
    case Role::kOperate:
      return "operate";
    case Role::kJob:
      return "job";
  }
  return "";
}

absl::StatusOr<Tokens> Tokens::Read(const std::string& path) {
  struct stat facts = {};
  std::ifstream file(path);
  if (!file || stat(path.c_str(), &facts) != 0)
    return absl::NotFoundError(absl::StrCat("cannot read the tokens ", path, ": ", std::strerror(errno)));
  if ((facts.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, " holds tokens, and others than its owner may read it; run chmod 600 ", path));
  }
  std::ostringstream text;
  text << file.rdbuf();
  absl::StatusOr<Tokens> tokens = Parse(text.str());
  if (tokens.ok()) return tokens;
  return absl::Status(tokens.status().code(), absl::StrCat(path, ": ", tokens.status().message()));
}

absl::StatusOr<Tokens> Tokens::Parse(std::string_view text) {
  Tokens tokens;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string role;
    std::string more;
    Holder holder;
    if (!(words >> role)) continue;
    const auto refuse = [&](const char* why) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", why));
    };
    if (role == "read") {
      holder.role = Role::kRead;
    } else if (role == "operate") {
      holder.role = Role::kOperate;
    } else if (role == "job") {
      holder.role = Role::kJob;
    } else {
      return refuse("a line is ROLE NAME TOKEN, and ROLE is read, operate or job");
    }
    if (!(words >> holder.name >> holder.token) || words >> more) return refuse("a line is ROLE NAME TOKEN");
    if (holder.token.size() < kLeastToken) return refuse("the token is shorter than 16 characters");
    if (tokens.Find(holder.token) != nullptr) return refuse("the token is another line's too");
    tokens.holders_.push_back(std::move(holder));
  }
  if (tokens.holders_.empty()) return absl::InvalidArgumentError("there is no token");
  return tokens;
}

const Holder* Tokens::Find(std::string_view token) const {
  const Holder* found = nullptr;
  for (const Holder& holder : holders_) {
    if (Equal(holder.token, token)) found = &holder;
  }
  return found;
}

}  // namespace terse::controller
