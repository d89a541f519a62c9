// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/advise_command.h"

#include <fnmatch.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "runtime/cli/exit_code.h"
#include "runtime/cli/job.h"
#include "runtime/cli/savings.h"

namespace terse::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct AdviseOptions {
  std::string config;
  std::vector<std::string> set;
  std::string gbit;
  std::string latency_us;
  std::string mpi = "auto";
  std::string report;
  bool replace_mpi = false;
  bool json = false;
  Words command;
};

// A folder that is gone when the command ends.
class Scratch {
 public:
  Scratch() {
    std::string pattern = fs::temp_directory_path() / "terse_advise_XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr)
      throw CommandError(kFailure, "cannot make a folder in " + pattern);
    path_ = pattern;
  }
  ~Scratch() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void Run(const AdviseOptions& options) {
  if (options.command.empty()) {
    throw CommandError(kUsage, "advise: say which job, behind --: terse advise -- mpirun -n 4 ./train");
  }
  std::vector<Setting> settings = ParseSettings(options.set);
  if (!options.gbit.empty()) settings.push_back({"network.gbit", options.gbit});
  if (!options.latency_us.empty()) settings.push_back({"network.latency_us", options.latency_us});
  const std::vector<ConfigLine> config = ResolveConfig(options.config, settings);

  const LauncherKind launcher = DetectLauncherKind(options.command);
  const std::string mpi = DetectMpi(options.command, launcher, options.mpi);
  const Scratch scratch;
  const fs::path report =
      options.report.empty() ? scratch.path() / "report.json" : fs::absolute(options.report);
  std::error_code error;
  fs::remove(report, error);  // so that an old one is not taken for this job's
  JobVariables variables = InterceptVariables(options.command, launcher, mpi, options.replace_mpi);
  variables.emplace_back("TERSE_PRELOAD", "observe");
  variables.emplace_back("TERSE_REPORT", report.string());
  variables.emplace_back("TERSE_MIN_ELEMENTS", FindLine(config, "min_elements").value);
  const Words command = WithVariables(options.command, launcher, variables);
  // A launcher's own process needs none of it.
  const int code = RunJob(command, launcher == LauncherKind::kNone ? variables : JobVariables{});

  std::ifstream in(report);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (code != 0) {
    std::fprintf(stderr, "terse: the job ended with exit code %d\n", code);
  }
  if (text.empty()) {
    throw CommandError(
        kFailure, "the job left no report: no rank called an all-reduce of " +
                      std::string(mpi == "openmpi" ? "Open MPI" : "MPICH") +
                      " or MPI_Init where the preload library could see it" +
                      (options.replace_mpi ? "" : " (one that loads MPI by dlopen needs --replace-mpi)") +
                      ", or rank 0 ended before its time; see terse doctor");
  }
  const std::string advice = Advise(text, config);
  std::fputs(options.json ? (Json::parse(advice).dump(2) + "\n").c_str() : FormatAdvice(advice).c_str(),
             stdout);
  if (code != 0) throw CommandError(kFailure, "the advice above is of a job that failed");
}

std::string Bytes(double bytes) {
  const char* const units[] = {"B", "KB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (; bytes >= 1000 && unit + 1 < std::size(units); ++unit) bytes /= 1000;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.3g %s", bytes, units[unit]);
  return text;
}

std::string Milliseconds(double ms) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g ms", ms);
  return text;
}

// The elements of a configured list, "[a, b]".
std::vector<std::string> Patterns(const std::vector<ConfigLine>& config, const char* key) {
  std::string_view rest = FindLine(config, key).value;
  if (rest.size() < 2 || rest.front() != '[') return {};
  rest = rest.substr(1, rest.size() - 2);
  std::vector<std::string> patterns;
  while (!rest.empty()) {
    const size_t comma = rest.find(", ");
    patterns.emplace_back(rest.substr(0, comma));
    rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 2);
  }
  return patterns;
}

// Why the configured patterns keep a call of this name exact, in the words of a group's report; empty where
// they do not.
std::string KeptOut(const std::vector<ConfigLine>& config, const std::string& tensor) {
  const auto matches = [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), tensor.c_str(), FNM_NOESCAPE) == 0;
  };
  const std::vector<std::string> include = Patterns(config, "include");
  if (std::none_of(include.begin(), include.end(), matches)) return "no pattern of include matches its name";
  const std::vector<std::string> exclude = Patterns(config, "exclude");
  const auto found = std::find_if(exclude.begin(), exclude.end(), matches);
  return found == exclude.end() ? "" : "excluded by \"" + *found + "\"";
}

std::string CallName(const Json& call) {
  return call.at("count").dump() + " " + call.at("type").get<std::string>() + " " +
         call.at("op").get<std::string>();
}

}  // namespace

std::string Advise(std::string_view text, const std::vector<ConfigLine>& config) {
  const Json report = Json::parse(text, nullptr, false);
  if (!report.is_object() || report.value("report", 0) != 1) {
    throw CommandError(kFailure, "the preload library's report is of another version, or none");
  }
  const Network network{std::stod(FindLine(config, "network.gbit").value),
                        std::stod(FindLine(config, "network.latency_us").value)};
  Json compress = Json::array();
  Json exact = Json::array();
  Saving step;
  for (const Json& communicator : report.at("communicators")) {
    for (const Json& site : communicator.at("sites")) {
      Json row{{"communicator", communicator.at("name")}, {"size", communicator.at("size")}};
      row.update(site);
      // The library that observes knows the job, not what is configured of names.
      if (site.at("compress").get<bool>()) {
        if (std::string reason = KeptOut(config, site.at("tensor").get<std::string>()); !reason.empty()) {
          row.update(Json{{"compress", false}, {"reason", std::move(reason)}, {"doubts", Json::array()}});
        }
      }
      if (!row.at("compress").get<bool>()) {
        exact.push_back(std::move(row));
        continue;
      }
      const Saving saving =
          Estimate(config, network, site.at("count").get<int64_t>(), communicator.at("size").get<int64_t>());
      row["dense_bytes"] = saving.dense_bytes;
      row["terse_bytes"] = saving.terse_bytes;
      row["dense_ms"] = saving.dense_ms;
      row["terse_ms"] = saving.terse_ms;
      step.dense_bytes += saving.dense_bytes;
      step.terse_bytes += saving.terse_bytes;
      step.dense_ms += saving.dense_ms;
      step.terse_ms += saving.terse_ms;
      compress.push_back(std::move(row));
    }
  }
  return Json{{"compressor", FindLine(config, "compressor").value},
              {"network", {{"gbit", network.gbit}, {"latency_us", network.latency_us}}},
              {"period",
               {{"dense_bytes", step.dense_bytes},
                {"terse_bytes", step.terse_bytes},
                {"dense_ms", step.dense_ms},
                {"terse_ms", step.terse_ms}}},
              {"compress", std::move(compress)},
              {"exact", std::move(exact)},
              {"report", report}}
      .dump();
}

std::string FormatAdvice(std::string_view text) {
  const Json advice = Json::parse(text);
  const Json& report = advice.at("report");
  std::ostringstream out;
  out << "job        " << report.at("program").get<std::string>() << ", " << report.at("world_size")
      << " ranks, " << report.at("mpi").get<std::string>() << "\n"
      << "seen       " << report.at("intercepted").at("calls") << " all-reduces of "
      << report.at("ranks").size() << " ranks in " << report.at("communicators").size()
      << " kinds of communicators\n\n";
  if (advice.at("compress").empty()) {
    out << "Nothing would be compressed.\n";
  } else {
    const Json& period = advice.at("period");
    out << "Would be compressed, by " << advice.at("compressor").get<std::string>() << ":\n";
    for (const Json& call : advice.at("compress")) {
      out << "  " << call.at("tensor").get<std::string>() << ", at " << call.at("position") << ": "
          << CallName(call) << ", " << call.at("calls") << " calls (" << call.at("binding").get<std::string>()
          << ", " << call.at("form").get<std::string>() << "): " << Bytes(call.at("dense_bytes")) << " -> "
          << Bytes(call.at("terse_bytes")) << " a rank\n";
      for (const Json& doubt : call.at("doubts")) out << "     but: " << doubt.get<std::string>() << "\n";
    }
    out << "In a period " << Bytes(period.at("dense_bytes")) << " -> " << Bytes(period.at("terse_bytes"))
        << " a rank; on a network of " << advice.at("network").at("gbit") << " Gbit/s and "
        << advice.at("network").at("latency_us") << " us: " << Milliseconds(period.at("dense_ms")) << " -> "
        << Milliseconds(period.at("terse_ms")) << ", without the time of encoding.\n"
        << "Confirm those that are gradients: terse run --include 'NAME, ...', or leave others out: "
           "--exclude.\n";
  }
  // Calls before a period was learned have the reasons of their positions afterwards; say each once.
  std::map<std::string, std::pair<int64_t, int64_t>> reasons;  // calls, bytes
  for (const Json& call : advice.at("exact")) {
    // Whether a pattern keeps it out is a matter of the name.
    std::string reason = call.at("tensor").is_null() ? "" : call.at("tensor").get<std::string>() + ": ";
    reason += call.at("reason").get<std::string>();
    auto& [calls, bytes] = reasons[reason];
    calls += call.at("calls").get<int64_t>();
    bytes += call.at("calls").get<int64_t>() * call.at("bytes").get<int64_t>();
  }
  if (!reasons.empty()) out << "\nStays exact:\n";
  for (const auto& [reason, sum] : reasons) {
    out << "  " << sum.first << " calls, " << Bytes(static_cast<double>(sum.second)) << ": " << reason
        << "\n";
  }
  for (const Json& warning : report.at("warnings"))
    out << "\nWarning: " << warning.get<std::string>() << ".\n";
  return out.str();
}

void AddAdviseCommand(CLI::App& app, const Words& job, std::function<void()>* run) {
  const auto options = std::make_shared<AdviseOptions>();
  options->command = job;
  CLI::App* advise = app.add_subcommand("advise",
                                        "Run an MPI job with a library under it that observes, and say what "
                                        "Terse would compress of its traffic,\n"
                                        "what that would save on a given network, and what stays exact and "
                                        "why. The job's results do not change.\n"
                                        "  terse advise --gbit 10 -- mpirun -n 8 ./train");
  advise->add_option("--gbit", options->gbit, "Rate of a rank's link in Gbit/s (key network.gbit)");
  advise->add_option("--latency-us", options->latency_us, "Latency of a message (key network.latency_us)");
  advise->add_option("--config", options->config, "YAML file; default: what TERSE_CONFIG names")
      ->type_name("FILE");
  advise->add_option("--set", options->set, "KEY=VALUE over file and environment; may be repeated")
      ->type_name("KEY=VALUE");
  advise->add_option("--mpi", options->mpi, "The job's MPI, where it cannot be seen: auto, openmpi or mpich")
      ->check(CLI::IsMember({"auto", "openmpi", "mpich"}));
  advise->add_flag(
      "--replace-mpi", options->replace_mpi,
      "Also take the place of MPI's own library, for a program that loads it by dlopen (Python's ctypes, "
      "Julia)");
  advise->add_option("--report", options->report, "Keep the library's report (docs/preload.md) in this file")
      ->type_name("FILE");
  advise->add_flag("--json", options->json, "Print JSON (docs/cli.md)");
  advise->footer("The job stands behind --.");
  advise->callback([run, options] { *run = [options] { Run(*options); }; });
}

}  // namespace terse::cli
