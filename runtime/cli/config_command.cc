// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/config_command.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/cli/settings.h"
#include "terse/terse.hpp"

namespace terse::cli {
namespace {

struct ShowOptions {
  std::string file;
  std::vector<std::string> set;
  bool origin = false;
  bool json = false;
};

void Show(const ShowOptions& options) {
  const std::vector<ConfigLine> lines = ResolveConfig(options.file, ParseSettings(options.set));
  if (options.json) {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const ConfigLine& line : lines) {
      out.push_back({{"key", line.key}, {"value", line.value}, {"origin", line.origin}});
    }
    std::printf("%s\n", out.dump(2).c_str());
    return;
  }
  for (const ConfigLine& line : lines) {
    std::printf("%s = %s", line.key.c_str(), line.value.c_str());
    if (options.origin) std::printf("  # %s", line.origin.c_str());
    std::printf("\n");
  }
}

void Help() {
  char* text = nullptr;
  Check(terse_config_show("", 1, &text));
  const std::unique_ptr<char, void (*)(char*)> owner(text, terse_string_free);
  std::fputs(owner.get(), stdout);
}

}  // namespace

void AddConfigCommand(CLI::App& app, std::function<void()>* run) {
  CLI::App* config = app.add_subcommand("config", "Show the configuration, or explain its keys");
  config->require_subcommand(1);

  const auto options = std::make_shared<ShowOptions>();
  CLI::App* show = config->add_subcommand(
      "show",
      "Print every setting as file, environment and --set give it.\n"
      "Precedence: --set, then TERSE_<SECTION>_<KEY>, then the file, then the default.");
  show->add_option("--config", options->file, "YAML file (default: the file that TERSE_CONFIG names, if set)")
      ->type_name("FILE");
  show->add_option("--set", options->set, "Override one setting; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  show->add_flag("--origin", options->origin, "Say where each value came from");
  show->add_flag("--json", options->json, "Print an array of {key, value, origin}");
  show->callback([run, options] { *run = [options] { Show(*options); }; });

  CLI::App* help =
      config->add_subcommand("help", "Print the table of all keys with types, ranges and defaults");
  help->callback([run] { *run = Help; });
}

}  // namespace terse::cli
