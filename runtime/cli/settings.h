// SPDX-License-Identifier: Apache-2.0
//
// Settings as the command line gives them: `--set key=value`, `--case "name: key=value,key=value"`, and
// the resolved configuration as the library shows it. Keys and values are checked by the library alone;
// here is only their grammar.
#ifndef TERSE_RUNTIME_CLI_SETTINGS_H_
#define TERSE_RUNTIME_CLI_SETTINGS_H_

#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/environment.h"

namespace terse::cli {

struct Setting {
  std::string key;    // "topk.density"
  std::string value;  // "0.01"

  friend bool operator==(const Setting&, const Setting&) = default;
};

// "key=value". CommandError(kUsage) when there is no key or no '='.
Setting ParseSetting(std::string_view text);
std::vector<Setting> ParseSettings(const std::vector<std::string>& texts);

// One configuration to measure. `settings` go over everything else.
struct BenchCase {
  std::string name;
  std::vector<Setting> settings;
};

// "compressor=topk,topk.density=0.01", or with a name in front: "sparse: compressor=topk". A piece
// without '=' continues the value before it, so lists need no quotes: "dgc.warmup_density=0.25,0.06".
BenchCase ParseCase(std::string_view text);

// "16000", "16K", "25.6M" (powers of ten). CommandError(kUsage) unless a whole number of elements > 0.
int64_t ParseElements(std::string_view text);

// As environment variables; a later setting of a key wins.
ScopedEnvironment::Variables ToEnvironment(const std::vector<Setting>& settings);

// One line of terse_config_show.
struct ConfigLine {
  std::string key;
  std::string value;
  std::string origin;  // "default", "file", "environment", "flag"
};
std::vector<ConfigLine> ParseConfigShow(std::string_view text);

// The configuration that the file (empty: TERSE_CONFIG, if set), the environment and `settings` give, in
// the table's order; settings have the origin "flag". Throws CommandError when there is no such key or the
// library refuses a value. Call while the process has one thread.
std::vector<ConfigLine> ResolveConfig(const std::string& file, const std::vector<Setting>& settings);

// The line of `key`, which must be one of the library's keys.
const ConfigLine& FindLine(const std::vector<ConfigLine>& lines, std::string_view key);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_SETTINGS_H_
