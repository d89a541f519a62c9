// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/state_command.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/cli/exit_code.h"
#include "terse/terse.hpp"

namespace terse::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ShowOptions {
  std::string directory;
  bool json = false;
};

void Show(const ShowOptions& options) {
  char* text = nullptr;
  // Whatever is wrong with the files, it is not the configuration.
  if (terse_state_show(options.directory.c_str(), &text) != TERSE_OK) {
    throw CommandError(kFailure, terse_last_error());
  }
  const std::unique_ptr<char, void (*)(char*)> owner(text, terse_string_free);
  if (options.json) {
    std::printf("%s\n", Json::parse(text).dump(2).c_str());
  } else {
    std::fputs(FormatState(text).c_str(), stdout);
  }
}

// "residual 12.3, server_error 0.4".
std::string MemoriesText(const Json& memories) {
  std::ostringstream out;
  out.precision(4);
  for (const Json& memory : memories) {
    out << (out.tellp() > 0 ? ", " : "") << memory.at("name").get<std::string>() << ' '
        << memory.at("norm").get<double>();
  }
  return out.tellp() > 0 ? out.str() : "none";
}

}  // namespace

std::string FormatState(std::string_view text) {
  const Json json = Json::parse(text);
  const auto world_size = json.at("world_size").get<size_t>();
  std::ostringstream out;
  out << "save       " << json.at("save") << " (" << json.at("save_id").get<std::string>() << "), "
      << json.at("bytes") << " bytes, all checksums fit\n"
      << "method     " << json.at("method").get<std::string>() << "\n"
      << "step       " << json.at("step") << ", and " << json.at("skipped_steps") << " skipped\n"
      << "ranks      " << world_size;
  if (!json.at("whole").get<bool>()) out << "; only the files of " << json.at("ranks").size() << " are here";
  out << "\nplan       version " << json.at("plan_version") << "\n";
  if (json.contains("variance")) {
    const Json& variance = json.at("variance");
    out << "variance   ";
    if (variance.at("frozen").get<bool>()) {
      out << "frozen after step " << variance.at("frozen_at_step") << "\n";
    } else {
      out << "not frozen; " << variance.at("warmup_steps") << " steps of warm-up\n";
    }
  }
  size_t width = 6;
  for (const Json& tensor : json.at("tensors")) {
    width = std::max(width, tensor.at("name").get_ref<const std::string&>().size());
  }
  const auto column = [&](const std::string& word, size_t size) {
    out << word << std::string(size > word.size() ? size - word.size() + 2 : 2, ' ');
  };
  out << "\n";
  column("tensor", width);
  column("elements", 12);
  column("codec", 8);
  column("applied", 8);
  out << "memories and their norms\n";
  for (const Json& tensor : json.at("tensors")) {
    column(tensor.at("name").get<std::string>(), width);
    column(tensor.at("elements").dump(), 12);
    column(tensor.at("codec").get<std::string>(), 8);
    column(tensor.at("applied").dump(), 8);
    out << MemoriesText(tensor.at("memories")) << "\n";
  }
  return out.str();
}

void AddStateCommand(CLI::App& app, std::function<void()>* run) {
  CLI::App* state = app.add_subcommand("state", "Look into the state that a job has saved");
  state->require_subcommand(1);

  const auto options = std::make_shared<ShowOptions>();
  CLI::App* show = state->add_subcommand(
      "show",
      "Print what a saved state holds: method, step, world size, and the memories of each tensor.\n"
      "Reads every byte and verifies every checksum; a damaged file is named, and the exit code is 1.");
  show->add_option("directory", options->directory, "The folder that was given to terse_state_save")
      ->type_name("DIR")
      ->required();
  show->add_flag("--json", options->json, "Print JSON (docs/cli.md) instead of a table");
  show->callback([run, options] { *run = [options] { Show(*options); }; });
}

}  // namespace terse::cli
