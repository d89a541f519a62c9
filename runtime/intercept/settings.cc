// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/settings.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

namespace terse::intercept {
namespace {

// "key = value  # origin"
struct Line {
  std::string key;
  std::string value;
  std::string origin;
};

std::vector<Line> Lines(std::string_view shown) {
  std::vector<Line> lines;
  while (!shown.empty()) {
    const std::string_view text = shown.substr(0, shown.find('\n'));
    shown.remove_prefix(text.size() < shown.size() ? text.size() + 1 : text.size());
    const size_t equals = text.find(" = ");
    const size_t origin = text.rfind("  # ");
    if (equals == std::string_view::npos || origin == std::string_view::npos || origin < equals + 3) continue;
    lines.push_back({std::string(text.substr(0, equals)),
                     std::string(text.substr(equals + 3, origin - equals - 3)),
                     std::string(text.substr(origin + 4))});
  }
  return lines;
}

bool IsNumber(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string Quoted(std::string_view text) {
  if (IsNumber(text) || text == "true" || text == "false") return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

// A value as YAML: words and the elements of lists in quotes.
std::string AsYaml(std::string_view value) {
  if (value.size() < 2 || value.front() != '[' || value.back() != ']') return Quoted(value);
  std::string list = "[";
  std::string_view rest = value.substr(1, value.size() - 2);
  while (!rest.empty()) {
    const size_t comma = rest.find(", ");
    list += (list.size() > 1 ? ", " : "") + Quoted(rest.substr(0, comma));
    rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 2);
  }
  return list + "]";
}

bool IsOn(const char* variable) {
  const char* const text = std::getenv(variable);
  bool on = false;
  if (!ParseSwitch(text, &on))
    std::fprintf(stderr, "terse: %s: '%s' is none of 1, true, 0 and false; it is off\n", variable, text);
  return on;
}

}  // namespace

bool CompressionIsAskedFor() {
  const char* const asked = std::getenv("TERSE_PRELOAD");
  if (asked != nullptr && *asked != '\0') return std::string_view(asked) == "compress";
  for (const char* name : {"TERSE_CONFIG", "TERSE_METHOD", "TERSE_COMPRESSOR"}) {
    const char* const value = std::getenv(name);
    if (value != nullptr && *value != '\0') return true;
  }
  return false;
}

bool ParseSwitch(const char* text, bool* on) {
  const std::string_view word = text == nullptr ? "" : text;
  *on = word == "1" || word == "true";
  return *on || word.empty() || word == "0" || word == "false";
}

bool ProgressThreadIsAskedFor() { return IsOn("TERSE_PROGRESS_THREAD"); }

bool DoublesAreAskedFor() { return IsOn("TERSE_DOUBLES"); }

Settings ReadSettings(const TerseApi& api) {
  char* text = nullptr;
  if (api.config_show(nullptr, 0, &text) != TERSE_OK) {
    Settings settings;
    settings.error = api.last_error();
    return settings;
  }
  Settings settings = ParseSettings(text);
  api.string_free(text);
  settings.rules.doubles = DoublesAreAskedFor();
  return settings;
}

Settings ParseSettings(std::string_view shown) {
  Settings settings;
  std::map<std::string, std::map<std::string, std::string>> sections;  // "" for keys without one
  // A job knows its own stragglers; a preload library does not end it.
  sections["transport"]["timeout_s"] = "86400";
  std::string method = "allreduce";
  std::string job_momentum = "none";
  for (const auto& [key, value, origin] : Lines(shown)) {
    if (key == "method") method = value;
    if (key == "dgc.job_momentum") job_momentum = value;
    if (key == "reduce" && value == "mean" && origin != "default") {
      settings.error = "reduce: mean is no sum, and the job's calls are MPI_SUM; leave it out";
    }
    if (key == "min_elements")
      std::from_chars(value.data(), value.data() + value.size(), settings.rules.min_elements);
    if (origin != "file" || key == "reduce") continue;
    const size_t dot = key.find('.');
    if (dot == std::string::npos) {
      sections[""][key] = AsYaml(value);
    } else {
      sections[key.substr(0, dot)][key.substr(dot + 1)] = AsYaml(value);
    }
  }
  settings.drains = method != "dgc";
  if (method == "dgc" && job_momentum == "none") {
    settings.error =
        "method dgc has momentum in what it gives, and the job's own optimizer would apply its momentum once "
        "more; set dgc.job_momentum (TERSE_DGC_JOB_MOMENTUM) to the momentum of that optimizer, 0 if it has "
        "none, and dgc.job_nesterov if that has Nesterov's form, or leave method out";
  } else if (method != "allreduce" && method != "dgc") {
    settings.error = "method " + method +
                     " gives the job what its own optimizer must not use; a job that only is preloaded has "
                     "allreduce, or dgc where it states its momentum (dgc.job_momentum)";
  }
  sections[""]["reduce"] = "sum";
  for (const auto& [section, keys] : sections) {
    if (!section.empty()) settings.yaml += section + ": {";
    const char* separator = "";
    for (const auto& [key, value] : keys) {
      settings.yaml.append(separator).append(key).append(": ").append(value);
      if (section.empty()) settings.yaml += '\n';
      separator = section.empty() ? "" : ", ";
    }
    if (!section.empty()) settings.yaml += "}\n";
  }
  return settings;
}

}  // namespace terse::intercept
