// SPDX-License-Identifier: Apache-2.0
//
// Who may do what: the bearer tokens of terse-controller, from a file with a line for each,
//
//   ROLE NAME TOKEN
//
// where ROLE is read, operate or job, NAME is what the audit log calls the holder, and TOKEN has 16
// characters or more. '#' begins a comment. Nobody but the file's owner may read it.
#ifndef TERSE_RUNTIME_CONTROLLER_SERVICE_TOKENS_H_
#define TERSE_RUNTIME_CONTROLLER_SERVICE_TOKENS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace terse::controller {

enum class Role { kRead, kOperate, kJob };
std::string_view Name(Role role);

struct Holder {
  std::string name;
  Role role = Role::kRead;
  std::string token;
};

class Tokens {
 public:
  // INVALID_ARGUMENT names the line, never its token; PERMISSION_DENIED: others may read the file.
  static absl::StatusOr<Tokens> Read(const std::string& path);
  static absl::StatusOr<Tokens> Parse(std::string_view text);

  // Null: nobody's. Takes as long whatever the token is.
  const Holder* Find(std::string_view token) const;

 private:
  std::vector<Holder> holders_;
};

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_SERVICE_TOKENS_H_
