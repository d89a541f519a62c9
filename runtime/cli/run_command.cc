// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/run_command.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

namespace fs = std::filesystem;

struct RunOptions {
  std::string config;
  std::vector<std::string> set;
  std::string mpi = "auto";
  std::string report;
  bool progress_thread = false;
  bool doubles = false;
  bool replace_mpi = false;
  Words flags;
  Words command;
};

// A job that is not to be changed has an optimizer of its own.
void CheckMethod(const std::vector<ConfigLine>& config) {
  const std::string& method = FindLine(config, "method").value;
  if (method == "allreduce") return;
  if (method != "dgc") {
    throw CommandError(
        kConfigInvalid,
        "method is " + method +
            ": what it gives is no sum, and the job's own optimizer would use it as one. "
            "A job that is not to be changed has allreduce, or dgc where its momentum is stated "
            "(--dgc-job-momentum); one that may be, see docs/methods.md");
  }
  if (FindLine(config, "dgc.job_momentum").value != "none") return;
  throw CommandError(kConfigInvalid,
                     "method is dgc, which has momentum in what it gives, and the job's own optimizer would "
                     "apply its momentum once more: say what that is, --dgc-job-momentum 0.9, or 0 if it has "
                     "none, and --dgc-job-nesterov true if it has Nesterov's form");
}

// A network that sends as little as 0.1 % from its first step on does not come to where it would have come,
// however long it trains (docs/results/preload.md). So dgc begins with a short warm-up, unless somebody has
// said how.
void AddWarmUp(const std::vector<ConfigLine>& config, JobVariables* variables) {
  if (FindLine(config, "method").value != "dgc") return;
  if (FindLine(config, "dgc.warmup_steps").origin != "default") return;
  variables->emplace_back(EnvironmentName("dgc.warmup_steps"), "64");
  if (FindLine(config, "dgc.warmup_density").origin == "default") {
    // Its stages are sparse all along: a dense one would cost what the method is to save.
    variables->emplace_back(EnvironmentName("dgc.warmup_density"), "0.0625,0.0156,0.0078,0.004");
  }
}

void Run(const RunOptions& options) {
  if (options.command.empty()) {
    throw CommandError(kUsage,
                       "run: say which job, behind --: terse run --compressor topk -- mpirun -n 4 ./train");
  }
  std::vector<Setting> settings = ParseSettings(options.set);
  for (Setting& setting : SettingsOfFlags(options.flags, ResolveConfig(options.config, {}))) {
    settings.push_back(std::move(setting));
  }
  const std::vector<ConfigLine> config = ResolveConfig(options.config, settings);
  CheckMethod(config);
  const LauncherKind launcher = DetectLauncherKind(options.command);
  JobVariables variables = InterceptVariables(
      options.command, launcher, DetectMpi(options.command, launcher, options.mpi), options.replace_mpi);
  variables.emplace_back("TERSE_PRELOAD", "compress");
  if (options.progress_thread) variables.emplace_back("TERSE_PROGRESS_THREAD", "1");
  if (options.doubles) variables.emplace_back("TERSE_DOUBLES", "1");
  // Ranks on other hosts get all that was set here, and nothing of what is in the way.
  for (const ConfigLine& line : config) {
    if (line.origin == "environment" || line.origin == "flag") {
      variables.emplace_back(EnvironmentName(line.key), line.value);
    }
  }
  AddWarmUp(config, &variables);
  std::string file = options.config.empty() ? GetEnvironment("TERSE_CONFIG").value_or("") : options.config;
  if (!file.empty()) variables.emplace_back("TERSE_CONFIG", fs::absolute(file).string());
  if (!options.report.empty()) variables.emplace_back("TERSE_REPORT", fs::absolute(options.report).string());
  const int code = RunJob(WithVariables(options.command, launcher, variables),
                          launcher == LauncherKind::kNone ? variables : JobVariables{});
  if (code != 0) {
    throw CommandError(static_cast<ExitCode>(code), "the job ended with exit code " + std::to_string(code));
  }
}

// "topk.warmup_steps" as "--topk-warmup-steps".
std::string FlagOf(std::string key) {
  std::replace_if(
      key.begin(), key.end(), [](char c) { return c == '.' || c == '_'; }, '-');
  return "--" + key;
}

}  // namespace

std::vector<Setting> SettingsOfFlags(const Words& flags, const std::vector<ConfigLine>& keys) {
  std::vector<Setting> settings;
  for (size_t i = 0; i < flags.size(); ++i) {
    const size_t equals = flags[i].find('=');
    const std::string name = flags[i].substr(0, equals);
    const auto key = std::find_if(keys.begin(), keys.end(),
                                  [&](const ConfigLine& line) { return FlagOf(line.key) == name; });
    if (key == keys.end()) {
      throw CommandError(kUsage,
                         "run: there is no option " + name + ", and no key of that name (terse config help)");
    }
    const bool last = i + 1 == flags.size() || flags[i + 1].starts_with("--");
    if (equals != std::string::npos) {
      settings.push_back({key->key, flags[i].substr(equals + 1)});
    } else if (last && (key->value == "true" || key->value == "false")) {
      settings.push_back({key->key, "true"});
    } else if (i + 1 < flags.size()) {
      settings.push_back({key->key, flags[++i]});
    } else {
      throw CommandError(kUsage, "run: " + name + " needs a value");
    }
  }
  return settings;
}

void AddRunCommand(CLI::App& app, const Words& job, std::function<void()>* run) {
  const auto options = std::make_shared<RunOptions>();
  options->command = job;
  CLI::App* command = app.add_subcommand(
      "run",
      "Run an MPI job with its gradients compressed. The job is not changed: a library "
      "under it takes the place of MPI_Allreduce\n"
      "for sums of floats that come again in every step, and leaves everything else as "
      "it is (docs/preload.md).\n"
      "  terse run --compressor topk --topk-density 0.01 -- mpirun -n 8 ./train\n"
      "Every key of the configuration is a flag: '.' and '_' are '-' there (terse config "
      "help). First see terse advise.\n"
      "Method dgc begins with 64 steps of falling density; --dgc-warmup-steps says how many, or "
      "0.");
  command->add_option("--config", options->config, "YAML file; default: what TERSE_CONFIG names")
      ->type_name("FILE");
  command->add_option("--set", options->set, "KEY=VALUE over file and environment; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--mpi", options->mpi, "The job's MPI, where it cannot be seen: auto, openmpi or mpich")
      ->check(CLI::IsMember({"auto", "openmpi", "mpich"}));
  command->add_flag(
      "--replace-mpi", options->replace_mpi,
      "Also take the place of MPI's own library, for a program that loads it by dlopen (Python's ctypes, "
      "Julia)");
  command
      ->add_option("--report", options->report,
                   "Write what was done and why into this file (terse why reads it)")
      ->type_name("FILE");
  command->add_flag("--doubles", options->doubles,
                    "Compress sums of double precision, too. Solvers need theirs exact; gradients do not");
  command->add_flag("--progress-thread", options->progress_thread,
                    "Give the job MPI_THREAD_MULTIPLE where it asks for less: its non-blocking calls are "
                    "compressed, too, by a thread of the library");
  command->allow_extras();
  command->footer("The job stands behind --. Its exit code is the command's.");
  command->callback([run, options, command] {
    options->flags = command->remaining();
    *run = [options] { Run(*options); };
  });
}

}  // namespace terse::cli
