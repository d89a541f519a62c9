// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_EXAMPLES_COMMON_FILES_H_
#define TERSE_EXAMPLES_COMMON_FILES_H_

#include <nlohmann/json.hpp>
#include <string>

namespace terse::examples {

// Both throw std::runtime_error with the path.
std::string ReadTextFile(const std::string& path);
void WriteJson(const std::string& path, const nlohmann::json& json);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_FILES_H_
