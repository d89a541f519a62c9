// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bench_kernels_command.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/cli/bench_report.h"
#include "runtime/cli/exit_code.h"
#include "runtime/cli/gradient_source.h"
#include "runtime/cli/kernels/kernel_bench.h"
#include "runtime/cli/kernels/kernel_paths.h"
#include "runtime/cli/settings.h"

namespace terse::cli {
namespace {

struct CommandLine {
  std::vector<std::string> elements = {"25.6M"};
  std::vector<std::string> kernels = KernelIds();
  std::vector<int> threads = {1};
  int repeat = 0;
  uint64_t seed = 1;
  bool json = false;
};

std::string ToJson(const std::vector<KernelResult>& results) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const KernelResult& r : results) {
    rows.push_back({{"kernel", r.kernel},
                    {"elements", r.elements},
                    {"threads", r.threads},
                    {"target", r.target},
                    {"ms", r.ms},
                    {"memcpy_ms", r.memcpy_ms},
                    {"ratio", r.ratio()}});
  }
  return rows.dump(2) + "\n";
}

std::string ToTable(const std::vector<KernelResult>& results) {
  std::string out;
  char line[160];
  std::snprintf(line, sizeof(line), "%-18s %10s %8s %-10s %10s %10s %9s %5s\n", "kernel", "elements",
                "threads", "target", "ms", "memcpy ms", "x memcpy", "kept");
  out += line;
  for (const KernelResult& r : results) {
    std::snprintf(line, sizeof(line), "%-18s %10s %8d %-10s %10.3f %10.3f %9.2f %5d\n", r.kernel.c_str(),
                  FormatCount(static_cast<double>(r.elements)).c_str(), r.threads, r.target.c_str(), r.ms,
                  r.memcpy_ms, r.ratio(), r.kept);
    out += line;
  }
  return out +
         "\nmedians; x memcpy: how many times as long as a memcpy of the same fp32 gradient, measured in "
         "turns;\n"
         "kept: repetitions in which no thread was preempted (all, where those are less than half).\n";
}

void Run(const CommandLine& line) {
  try {
    (void)KernelTarget();
  } catch (const std::invalid_argument& error) {
    throw CommandError(kConfigInvalid, error.what());
  }
  std::vector<KernelResult> results;
  for (const std::string& text : line.elements) {
    const auto n = static_cast<size_t>(ParseElements(text));
    const GradientSource source(line.seed, /*rank=*/0);
    KernelBench bench(n, [&](std::span<float> to) { source.Fill(0, to.data(), to.size()); });
    for (const int threads : line.threads) {
      for (const std::string& kernel : line.kernels) {
        results.push_back(bench.Measure(kernel, threads, line.repeat));
      }
    }
  }
  std::fputs((line.json ? ToJson : ToTable)(results).c_str(), stdout);
}

}  // namespace

void AddBenchKernelsCommand(CLI::App* bench, std::function<void()>* run) {
  const auto line = std::make_shared<CommandLine>();
  CLI::App* kernels = bench->add_subcommand(
      "kernels",
      "Time the codecs' work on one gradient against a memcpy of it, in turns.\n\n"
      "No ranks and no transport: what is measured is encoding and decoding in memory, with residuals that\n"
      "live from step to step. Compare ratios; times depend on what else the machine does.\n"
      "TERSE_SIMD chooses another instruction set.");
  kernels->add_option("--elements", line->elements, "Sizes to measure: 1M, 25.6M, 110M (default: 25.6M)")
      ->type_name("N[,N...]")
      ->delimiter(',');
  kernels->add_option("--kernels", line->kernels, "Kernels to measure (default: all)")
      ->type_name("ID[,ID...]")
      ->delimiter(',')
      ->check(CLI::IsMember(KernelIds()));
  kernels
      ->add_option("--threads", line->threads,
                   "Threads that kernel and memcpy are divided among: 1,2 (default: 1)")
      ->type_name("N[,N...]")
      ->delimiter(',')
      ->check(CLI::Range(1, 256));
  kernels->add_option("--repeat", line->repeat, "Repetitions (default: 21, and more of small sizes)")
      ->check(CLI::Range(1, 100000))
      ->type_name("N");
  kernels->add_option("--seed", line->seed, "Seed of the gradients")->capture_default_str();
  kernels->add_flag("--json", line->json, "Print JSON (docs/cli.md) instead of a table");
  kernels->callback([run, line] { *run = [line] { Run(*line); }; });
}

}  // namespace terse::cli
