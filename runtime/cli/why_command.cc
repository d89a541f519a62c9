// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/why_command.h"

#include <fnmatch.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "runtime/cli/exit_code.h"
#include "runtime/cli/input_file.h"

namespace terse::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Text(const Json& object, const char* key) { return object.at(key).get<std::string>(); }
double Number(const Json& object, const char* key) { return object.at(key).get<double>(); }

std::string Printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

// 25600000 as 25.6 M.
std::string Count(double n) {
  if (n >= 1e6) return Printed("%.4g M", n / 1e6);
  if (n >= 1e4) return Printed("%.4g k", n / 1e3);
  return Printed("%.0f", n);
}

PathRow TensorRow(const Json& tensor) {
  PathRow row;
  row.name = Text(tensor, "name");
  row.elements = Number(tensor, "elements");
  row.calls = Number(tensor, "calls");
  if (row.calls > 0) {
    row.call_ms =
        (Number(tensor, "encode_ms") + Number(tensor, "exchange_ms") + Number(tensor, "decode_ms")) /
        row.calls;
  }
  const double sent = Number(tensor, "bytes_sent");
  if (sent > 0) row.times_less = Number(tensor, "dense_bytes") / sent;
  const std::string codec = Text(tensor, "codec");
  row.path = codec == "none" ? "dense" : codec + " by " + Text(tensor, "exchange");
  row.reason = Text(tensor, "reason");
  if (Number(tensor, "nonfinite_calls") > 0) {
    row.notes.push_back("NaN or Inf in " + Count(Number(tensor, "nonfinite_calls")) + " of its exchanges");
  }
  return row;
}

// The rows of a group's tensors, each name behind `prefix`.
void AddTensors(const Json& report, const std::string& prefix, Paths* paths) {
  const size_t first = paths->rows.size();
  for (const Json& tensor : report.at("tensors")) {
    paths->rows.push_back(TensorRow(tensor));
    paths->rows.back().name.insert(0, prefix);
  }
  if (!report.contains("dense_when_faster")) return;
  for (const Json& event : report.at("dense_when_faster").at("events")) {
    const std::string what = "step " + Count(Number(event, "step")) + ": " + Text(event, "decision") +
                             ", since " + Text(event, "reason") + " (" + Text(event, "cause") + ")";
    for (size_t i = first; i < paths->rows.size(); ++i) {
      if (paths->rows[i].name == prefix + Text(event, "tensor")) paths->rows[i].notes.push_back(what);
    }
  }
}

void ReadGroup(const Json& report, Paths* paths) {
  paths->title = "method " + Text(report, "method") + ", compressor " + Text(report, "compressor") + ", " +
                 Count(Number(report, "world_size")) + " ranks over " + Text(report, "transport") + ", " +
                 Count(Number(report, "steps")) + " steps and " + Count(Number(report, "skipped_steps")) +
                 " skipped";
  AddTensors(report, "", paths);
}

PathRow SiteRow(const Json& site, const std::string& where, bool group) {
  PathRow row;
  row.name = where;
  if (!site.at("position").is_null()) row.name += " #" + site.at("position").dump();
  row.name += " " + Text(site, "type") + " " + Text(site, "op") + ", " + Text(site, "form") + ", " +
              Text(site, "binding");
  row.elements = Number(site, "count");
  row.calls = Number(site, "calls");
  row.call_ms = Number(site, "mean_us") / 1e3;
  const bool compress = site.at("compress").get<bool>();
  row.path = !compress ? "exact" : group ? "a tensor below" : "can be compressed";
  row.reason = Text(site, "reason");
  for (const Json& doubt : site.at("doubts")) row.notes.push_back("look at it: " + doubt.get<std::string>());
  return row;
}

// Where ranks waited long, and what was said of it.
void AddHangs(const Json& hangs, Paths* paths) {
  const Json& events = hangs.at("events");
  for (const Json& event : events) {
    paths->notes.push_back(
        (event.at("over").get<bool>() ? "waited: " : "waited until the report was written: ") +
        Text(event, "message"));
  }
  const double more = Number(hangs, "count") - static_cast<double>(events.size());
  if (more > 0) paths->notes.push_back(Count(more) + " more waits that are not listed");
}

// What a preload library saw, and did.
void ReadJob(const Json& report, Paths* paths) {
  double compressed = 0;
  for (const Json& communicator : report.at("communicators")) {
    std::string where = Text(communicator, "name");
    if (where.empty()) where = "a communicator of " + Count(Number(communicator, "size"));
    const bool group = communicator.contains("group");
    for (const Json& site : communicator.at("sites")) paths->rows.push_back(SiteRow(site, where, group));
    if (group) AddTensors(communicator.at("group"), where + " ", paths);
    if (communicator.contains("compressed_calls")) compressed += Number(communicator, "compressed_calls");
    if (communicator.contains("error")) paths->notes.push_back(where + ": " + Text(communicator, "error"));
  }
  paths->title = Text(report, "program") + ", " + Count(Number(report, "world_size")) + " ranks of " +
                 Text(report, "mpi") + ": " +
                 (compressed > 0 ? Count(compressed) + " calls of a rank went through Terse"
                                 : "observed, nothing was changed");
  for (const Json& warning : report.at("warnings")) paths->notes.push_back(warning.get<std::string>());
  if (report.contains("hangs")) AddHangs(report.at("hangs"), paths);
}

struct WhyOptions {
  std::string file;
  std::string match = "*";
  bool json = false;
};

void Why(const WhyOptions& options) {
  const std::string text = ReadInput(options.file);
  Paths paths;
  try {
    paths = ReadPaths(text, options.match);
  } catch (const std::exception& error) {
    throw CommandError(kFailure, options.file +
                                     " is no report of a group (terse_group_report) nor of an observed job "
                                     "(TERSE_REPORT): " +
                                     error.what());
  }
  std::fputs((options.json ? PathsJson(paths) : PathsTable(paths)).c_str(), stdout);
}

}  // namespace

Paths ReadPaths(std::string_view report, const std::string& match) {
  const Json json = Json::parse(report);
  Paths paths;
  if (json.contains("communicators")) {
    ReadJob(json, &paths);
  } else {
    ReadGroup(json, &paths);
  }
  std::erase_if(paths.rows,
                [&](const PathRow& row) { return fnmatch(match.c_str(), row.name.c_str(), 0) != 0; });
  return paths;
}

std::string PathsTable(const Paths& paths) {
  std::vector<std::vector<std::string>> cells = {
      {"what", "elements", "calls", "ms/call", "x less", "path", "reason"}};
  for (const PathRow& row : paths.rows) {
    cells.push_back({row.name, Count(row.elements), Count(row.calls), Printed("%.3g", row.call_ms),
                     row.times_less > 0 ? Printed("%.1f", row.times_less) : "-", row.path, row.reason});
  }
  std::vector<size_t> widths(cells[0].size(), 0);
  for (const std::vector<std::string>& line : cells) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string out = paths.title + "\n\n";
  for (size_t r = 0; r < cells.size(); ++r) {
    for (size_t i = 0; i < cells[r].size(); ++i) {
      const bool number = i >= 1 && i <= 4;
      const std::string room(widths[i] - cells[r][i].size(), ' ');
      if (i > 0) out += "  ";
      if (number) out += room;
      out += cells[r][i];
      if (!number && i + 1 < cells[r].size()) out += room;
    }
    out += "\n";
    if (r == 0) continue;
    for (const std::string& note : paths.rows[r - 1].notes) out += "    " + note + "\n";
  }
  if (paths.rows.empty()) out += "nothing: no row, or none whose name fits --match\n";
  for (const std::string& note : paths.notes) out += "\n" + note + "\n";
  return out;
}

std::string PathsJson(const Paths& paths) {
  Json rows = Json::array();
  for (const PathRow& row : paths.rows) {
    rows.push_back({{"name", row.name},
                    {"elements", row.elements},
                    {"calls", row.calls},
                    {"call_ms", row.call_ms},
                    {"times_less", row.times_less > 0 ? Json(row.times_less) : Json()},
                    {"path", row.path},
                    {"reason", row.reason},
                    {"notes", row.notes}});
  }
  return rows.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void AddWhyCommand(CLI::App& app, std::function<void()>* run) {
  const auto options = std::make_shared<WhyOptions>();
  CLI::App* why = app.add_subcommand(
      "why",
      "Say for each tensor or call of a report which path it took, and why.\n"
      "A report is what terse_group_report gives, or what a job that was observed wrote to TERSE_REPORT.");
  why->add_option("report", options->file, "The file, or - for standard input")
      ->type_name("REPORT")
      ->required();
  why->add_option("--match", options->match,
                  "Only rows whose name fits this shell pattern, such as '*.weight'")
      ->type_name("PATTERN");
  why->add_flag("--json", options->json, "Print JSON (docs/cli.md) instead of a table");
  why->callback([run, options] { *run = [options] { Why(*options); }; });
}

}  // namespace terse::cli
