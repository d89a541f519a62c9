// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bench_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "runtime/cli/bench_kernels_command.h"
#include "runtime/cli/bench_measure.h"
#include "runtime/cli/bench_report.h"
#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

constexpr int kDefaultRanks = 4;

struct CommandLine {
  std::vector<std::string> elements;
  std::string file;
  std::vector<std::string> set;
  std::vector<std::string> cases;
  int ranks = 0;
  bool json = false;
  BenchOptions bench;
};

std::vector<int64_t> DefaultElements() { return {16'000, 1'000'000, 25'600'000}; }

std::vector<BenchCase> DefaultCases() {
  return {ParseCase("fp16: compressor=fp16"),
          ParseCase("quantize 4 bit: compressor=quantize,quantize.bits=4"),
          ParseCase("onebit: compressor=onebit"),
          ParseCase("topk 1 %: compressor=topk,topk.density=0.01"),
          ParseCase("powersgd rank 4: compressor=powersgd,powersgd.rank=4"),
          ParseCase("dgc 0.1 %: method=dgc,compressor=topk,dgc.density=0.001")};
}

// What to measure: the cases asked for, each over the common settings; without any, the configuration
// that was given; without that, one case of each kind.
std::vector<BenchCase> ChooseCases(const CommandLine& line) {
  const std::vector<Setting> common = ParseSettings(line.set);
  std::vector<BenchCase> cases;
  for (const std::string& text : line.cases) cases.push_back(ParseCase(text));
  if (cases.empty() && common.empty() && line.file.empty()) return DefaultCases();
  if (cases.empty()) cases.push_back({"configured", {}});
  for (BenchCase& bench_case : cases) {
    bench_case.settings.insert(bench_case.settings.begin(), common.begin(), common.end());
  }
  return cases;
}

// How many ranks to run as threads of this process; 0: this process is one rank.
int ChooseThreads(const CommandLine& line, const Launcher& launcher, const std::vector<BenchCase>& cases) {
  if (launcher.present) {
    if (line.ranks > 0) throw CommandError(kUsage, "--ranks: under an MPI launcher its -n says how many");
    return 0;
  }
  // All cases share one transport: the first decides.
  const std::vector<ConfigLine> config = ResolveConfig(line.file, cases[0].settings);
  const ConfigLine& transport = FindLine(config, "transport.name");
  if (transport.origin == "default" || transport.value == "inproc") {
    return line.ranks > 0 ? line.ranks : kDefaultRanks;
  }
  if (line.ranks > 0) {
    throw CommandError(kUsage,
                       "--ranks: ranks as threads need transport.name=inproc, not " + transport.value);
  }
  return 0;
}

void Progress(bool show, const std::string& text) {
  if (show) std::fprintf(stderr, "\r\033[K%s", text.c_str());
}

void Run(const CommandLine& line) {
  const Launcher launcher = DetectLauncher();
  const std::vector<BenchCase> cases = ChooseCases(line);
  // Before anything is opened, so that a wrong setting is one message and not one per rank or minute.
  for (const BenchCase& bench_case : cases) (void)ResolveConfig(line.file, bench_case.settings);
  std::vector<int64_t> sizes;
  for (const std::string& text : line.elements) sizes.push_back(ParseElements(text));

  const int threads = ChooseThreads(line, launcher, cases);
  BenchWorld world(line.file, threads);
  if (sizes.empty()) {
    sizes = KeepWhatFits(world, DefaultElements(), threads > 0 ? threads : launcher.ranks_on_host);
  }

  const bool show_progress = launcher.rank == 0 && isatty(STDERR_FILENO) != 0;
  std::vector<BenchResult> results;
  if (!line.bench.trace.empty() && sizes.size() * cases.size() > 1) {
    throw CommandError(kUsage, "--trace: takes one --case and one size in --elements; there are " +
                                   std::to_string(cases.size()) + " and " + std::to_string(sizes.size()));
  }
  for (const int64_t size : sizes) {
    for (const BenchCase& bench_case : cases) {
      Progress(show_progress,
               bench_case.name + ", " + FormatCount(static_cast<double>(size)) + " elements ...");
      if (auto result = Measure(world, bench_case, size, line.bench)) results.push_back(std::move(*result));
    }
  }
  Progress(show_progress, "");
  if (results.empty()) return;  // this process does not hold rank 0
  std::fputs((line.json ? FormatJson : FormatTable)(results, line.bench).c_str(), stdout);
}

}  // namespace

void AddBenchCommand(CLI::App& app, std::function<void()>* run) {
  const auto line = std::make_shared<CommandLine>();
  CLI::App* bench = app.add_subcommand(
      "bench",
      "Time compressed all-reduce against the transport's own dense one, side by side.\n\n"
      "Under a launcher (mpirun -n 4 terse bench) every process is a rank and the configured\n"
      "transport is measured. By itself, the ranks are threads of this process over transport\n"
      "inproc: that shows bytes and codec times, but memory is no network, so dense usually wins.");
  bench
      ->add_option("--elements", line->elements,
                   "Sizes to measure: 16000, 16K, 25.6M (default: 16K,1M,25.6M)")
      ->type_name("N[,N...]")
      ->delimiter(',');
  bench
      ->add_option(
          "--case", line->cases,
          "A configuration to measure, as NAME: KEY=VALUE,...; may be repeated (default: fp16, "
          "quantize 4 bit, onebit, topk 1 %, powersgd rank 4, dgc 0.1 %, unless --config or --set is given)")
      ->type_name("CASE")
      ->allow_extra_args(false);
  bench->add_option("--config", line->file, "YAML file under all cases (default: TERSE_CONFIG, if set)")
      ->type_name("FILE");
  bench->add_option("--set", line->set, "Override one setting in all cases; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  bench->add_option("--repeat", line->bench.repeat, "Repetitions that count")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  bench
      ->add_option("--warmup", line->bench.warmup,
                   "Repetitions before them; onebit_adam adds its freeze steps")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  bench->add_option("--ranks", line->ranks, "Ranks as threads, without a launcher (default: 4)")
      ->check(CLI::Range(1, 64))
      ->type_name("N");
  bench->add_option("--seed", line->bench.seed, "Seed of the gradients")->capture_default_str();
  bench->add_flag("!--no-dense", line->bench.dense,
                  "Leave the dense all-reduce out: no speed-up and no error, but faster on slow links");
  bench
      ->add_option("--trace", line->bench.trace,
                   "Folder for a trace of each rank, rank-N.json, for chrome://tracing or Perfetto; one case "
                   "and size")
      ->type_name("FOLDER");
  bench->add_flag("--json", line->json, "Print JSON (docs/cli.md) instead of a table");
  AddBenchKernelsCommand(bench, run);
  bench->callback([run, line, bench] {
    if (bench->get_subcommands().empty()) *run = [line] { Run(*line); };
  });
}

}  // namespace terse::cli
