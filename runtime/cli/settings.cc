// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/settings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>

#include "runtime/cli/exit_code.h"
#include "terse/terse.hpp"

namespace terse::cli {
namespace {

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t end; (end = text.find(separator)) != std::string_view::npos; text.remove_prefix(end + 1)) {
    parts.push_back(text.substr(0, end));
  }
  parts.push_back(text);
  return parts;
}

// The library sees --set as environment variables; a person has to see what was typed.
std::string InWordsOfTheCommandLine(std::string message, const std::vector<Setting>& settings) {
  for (const Setting& setting : settings) {
    const std::string variable = "environment variable " + EnvironmentName(setting.key) + ":";
    if (const size_t at = message.find(variable); at != std::string::npos) {
      message.replace(at, variable.size(), "--set " + setting.key + "=" + setting.value + ":");
      break;
    }
  }
  return message;
}

std::string ShowConfig(const std::vector<Setting>& settings) {
  char* text = nullptr;
  const terse_status_t status = terse_config_show(nullptr, 0, &text);
  if (status != TERSE_OK) {
    throw CommandError(FromStatus(status), InWordsOfTheCommandLine(terse_last_error(), settings));
  }
  const std::unique_ptr<char, void (*)(char*)> owner(text, terse_string_free);
  return owner.get();
}

// All keys of the library. Empty when the environment alone is refused already: ResolveConfig then says so.
std::vector<std::string> KnownKeys() {
  char* text = nullptr;
  if (terse_config_show("", 0, &text) != TERSE_OK) return {};
  const std::unique_ptr<char, void (*)(char*)> owner(text, terse_string_free);
  std::vector<std::string> keys;
  for (ConfigLine& line : ParseConfigShow(owner.get())) keys.push_back(std::move(line.key));
  return keys;
}

}  // namespace

Setting ParseSetting(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || Trim(text.substr(0, equals)).empty()) {
    throw CommandError(kUsage, "'" + std::string(text) + "' is not of the form key=value");
  }
  return {std::string(Trim(text.substr(0, equals))), std::string(Trim(text.substr(equals + 1)))};
}

std::vector<Setting> ParseSettings(const std::vector<std::string>& texts) {
  std::vector<Setting> settings;
  settings.reserve(texts.size());
  for (const std::string& text : texts) settings.push_back(ParseSetting(text));
  return settings;
}

BenchCase ParseCase(std::string_view text) {
  BenchCase result;
  const size_t colon = text.find(':');
  if (colon < text.find('=')) {
    result.name = Trim(text.substr(0, colon));
    text.remove_prefix(colon + 1);
  } else {
    result.name = Trim(text);
  }
  for (const std::string_view piece : Split(text, ',')) {
    if (piece.find('=') != std::string_view::npos || result.settings.empty()) {
      result.settings.push_back(ParseSetting(piece));
    } else {
      result.settings.back().value.append(",").append(Trim(piece));
    }
  }
  return result;
}

int64_t ParseElements(std::string_view text) {
  const std::string_view trimmed = Trim(text);
  double value = 0;
  const char* const end = trimmed.data() + trimmed.size();
  const auto [stopped, error] = std::from_chars(trimmed.data(), end, value);
  const std::string_view suffix(stopped, static_cast<size_t>(end - stopped));
  double unit = 0;
  if (suffix.empty()) unit = 1;
  if (suffix == "k" || suffix == "K") unit = 1e3;
  if (suffix == "m" || suffix == "M") unit = 1e6;
  if (suffix == "g" || suffix == "G") unit = 1e9;
  // 25.6 * 1e6 need not be whole in binary; what is nearly whole was meant to be.
  const double elements = std::round(value * unit);
  const bool whole = std::abs(elements - value * unit) <= 1e-6;
  if (error != std::errc() || !whole || !(elements >= 1 && elements <= 1e12)) {
    throw CommandError(
        kUsage, "--elements: '" + std::string(text) + "' is not a number of elements (16000, 16K, 25.6M)");
  }
  return static_cast<int64_t>(elements);
}

ScopedEnvironment::Variables ToEnvironment(const std::vector<Setting>& settings) {
  ScopedEnvironment::Variables variables;
  variables.reserve(settings.size());
  for (const Setting& setting : settings) {
    variables.emplace_back(EnvironmentName(setting.key), setting.value);
  }
  return variables;
}

std::vector<ConfigLine> ParseConfigShow(std::string_view text) {
  std::vector<ConfigLine> lines;
  for (const std::string_view line : Split(text, '\n')) {
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    const size_t comment = line.rfind("  # ");
    ConfigLine& parsed = lines.emplace_back();
    parsed.key = Trim(line.substr(0, equals));
    if (comment == std::string_view::npos || comment < equals) {
      parsed.value = Trim(line.substr(equals + 1));
    } else {
      parsed.value = Trim(line.substr(equals + 1, comment - equals - 1));
      parsed.origin = Trim(line.substr(comment + 4));
    }
  }
  return lines;
}

std::vector<ConfigLine> ResolveConfig(const std::string& file, const std::vector<Setting>& settings) {
  const std::vector<std::string> known = KnownKeys();
  for (const Setting& setting : settings) {
    if (!known.empty() && std::find(known.begin(), known.end(), setting.key) == known.end()) {
      throw CommandError(kConfigInvalid, "unknown key '" + setting.key + "' (value '" + setting.value +
                                             "'); `terse config help` lists all keys");
    }
  }
  ScopedEnvironment::Variables variables = ToEnvironment(settings);
  if (!file.empty()) variables.emplace_back("TERSE_CONFIG", file);
  const ScopedEnvironment environment(variables);
  std::vector<ConfigLine> lines = ParseConfigShow(ShowConfig(settings));
  for (ConfigLine& line : lines) {
    for (const Setting& setting : settings) {
      if (setting.key == line.key) line.origin = "flag";
    }
  }
  return lines;
}

const ConfigLine& FindLine(const std::vector<ConfigLine>& lines, std::string_view key) {
  for (const ConfigLine& line : lines) {
    if (line.key == key) return line;
  }
  throw CommandError(kFailure, "the library knows no key '" + std::string(key) +
                                   "': this command and libterse are of different versions");
}

}  // namespace terse::cli
