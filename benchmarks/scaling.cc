// SPDX-License-Identifier: Apache-2.0
//
// The scaling study of docs/results/scaling.md: the cost model that the policy chooses by, held against rows
// that benchmarks/links.sh has measured, and carried to worlds of 16 to 1,024 ranks. Markdown on stdout. It
// is a simulation: no exchange takes place here.
//
//   benchmarks/links.sh --hosts 4 --json > 4.json
//   scaling [--memcpy GB_PER_S] [--message US] [4.json ...]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/controller/policy/cost_model.h"

namespace terse {
namespace {

using policy::Cost;
using policy::Machine;
using policy::Workload;

struct Method {
  std::string name;
  std::function<Cost(const Machine&, const Workload&)> cost;
};

policy::Entries RiceEntries(double density) {
  wire::CodecParams params;
  params.density = density;
  params.index = wire::IndexCoding::kRice;
  return policy::EntriesOf(params);
}

// The methods of links.sh, under its names.
std::vector<Method> Methods() {
  using namespace policy;
  const auto gather = [](const Kernels& kernels, double density) {
    return [=](const Machine& m, const Workload& w) {
      return AllGatherCost(m, w, kernels, RiceEntries(density));
    };
  };
  const auto sparse = [](const Kernels& kernels, double density) {
    return [=](const Machine& m, const Workload& w) {
      return SparseReduceCost(m, w, kernels, RiceEntries(density));
    };
  };
  const auto split = [](const Kernels& kernels, double bits) {
    return [=](const Machine& m, const Workload& w) { return ScatterReduceCost(m, w, kernels, bits); };
  };
  // 4 bits and, of each 512 elements, two bfloat16.
  return {{"dgc", gather(kDgcKernels, 0.001)},
          {"dgc_sparse", sparse(kDgcKernels, 0.001)},
          {"topk", gather(kTopKKernels, 0.01)},
          {"topk_sparse", sparse(kTopKKernels, 0.01)},
          {"onebit", split(kOneBitKernels, 1)},
          {"quantize4", split(kQuantize4Kernels, 4 + 32.0 / 512)},
          {"powersgd4",
           [](const Machine& m, const Workload& w) { return LowRankCost(m, w, kPowerSgdKernels, 4); }}};
}

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), value < 10 ? "%.1f" : "%.0f", value);
  return text;
}

std::string Millions(double elements) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g M", elements / 1e6);
  return text;
}

void Row(const std::vector<std::string>& cells) {
  std::cout << "|";
  for (const std::string& cell : cells) std::cout << " " << cell << " |";
  std::cout << "\n";
}
void Head(const std::vector<std::string>& cells) {
  Row(cells);
  Row(std::vector<std::string>(cells.size(), "---"));
}

// Of what tc takes for a rate: 100mbit, 1gbit.
double BytesPerSecond(const std::string& rate) {
  const double number = std::stod(rate);
  return number * (rate.find("gbit") != std::string::npos ? 1e9 : 1e6) / 8;
}

// The ranks of a testbed share two cores, and these a memory that is half as fast again for both as for one.
Machine Shared(Machine machine, double ranks) {
  const double slower = std::max(1.0, ranks / 1.5);
  machine.memcpy_bytes_per_s /= slower;
  machine.message_s *= slower;
  machine.entry_s *= slower;
  return machine;
}

void Check(const std::vector<nlohmann::json>& rows, const Machine& base) {
  std::cout << "## The model against measurements\n\n";
  Head({"rate", "hosts", "elements", "exchange", "measured, ms", "model, ms", "measured / model"});
  double squares = 0;
  int count = 0;
  const auto line = [&](const nlohmann::json& row, const std::string& name, double ms, const Cost& cost) {
    const double ratio = ms / (1e3 * cost.seconds);
    squares += std::log(ratio) * std::log(ratio);
    ++count;
    char text[32];
    std::snprintf(text, sizeof(text), "%.2f", ratio);
    Row({row.at("rate"), std::to_string(row.at("hosts").get<int>()), Millions(row.at("elements")), name,
         Number(ms), Number(1e3 * cost.seconds), text});
  };
  std::string dense_of;
  for (const nlohmann::json& row : rows) {
    const double ranks = row.at("hosts");
    Machine machine = Shared(base, ranks);
    machine.bytes_per_s = BytesPerSecond(row.at("rate"));
    const Workload load{.elements = row.at("elements"), .ranks = ranks};
    const std::string bed =
        row.at("rate").get<std::string>() + row.at("hosts").dump() + row.at("elements").dump();
    if (bed != dense_of) line(row, "dense ring", row.at("ring_ms"), DenseCost(machine, load));
    dense_of = bed;
    for (const Method& method : Methods()) {
      if (method.name == row.at("name").get<std::string>())
        line(row, method.name, row.at("exchange_ms"), method.cost(machine, load));
    }
  }
  std::printf("\nTypical factor between the two (root mean square of its logarithm): %.2f.\n\n",
              std::exp(std::sqrt(squares / std::max(count, 1))));
}

struct Network {
  double gbit;
  double latency_us;
};
constexpr Network kNetworks[] = {{1, 50}, {10, 30}, {25, 10}, {100, 5}};
constexpr int kRanks[] = {16, 64, 256, 1024};

Machine On(const Network& network, Machine machine) {
  machine.bytes_per_s = network.gbit * 1e9 / 8;
  machine.latency_s = network.latency_us * 1e-6;
  return machine;
}

void Simulate(double elements, const Machine& base) {
  std::cout << "## Simulation: " << Millions(elements) << " elements\n\n"
            << "Times faster than the best dense all-reduce, whose time in ms is in its column; below 1 "
               "dense wins, and "
               "the fastest is bold.\n\n";
  std::vector<std::string> head = {"Gbit/s", "ranks", "dense, ms"};
  for (const Method& method : Methods()) head.push_back(method.name);
  Head(head);
  for (const Network& network : kNetworks) {
    for (const int ranks : kRanks) {
      const Machine machine = On(network, base);
      const Workload load{.elements = elements, .ranks = static_cast<double>(ranks)};
      const double dense = DenseCost(machine, load).seconds;
      std::vector<double> gains;
      for (const Method& method : Methods()) gains.push_back(dense / method.cost(machine, load).seconds);
      const double best = *std::max_element(gains.begin(), gains.end());
      std::vector<std::string> cells = {Number(network.gbit), std::to_string(ranks), Number(1e3 * dense)};
      for (const double gain : gains) {
        cells.push_back(gain == best && gain > 1 ? "**" + Number(gain) + "**" : Number(gain));
      }
      Row(cells);
    }
  }
  std::cout << "\n";
}

// The world size from which on `holds`.
std::string From(const std::function<bool(double ranks)>& holds) {
  constexpr int kMost = 65536;
  int from = kMost;
  while (from > 2 && holds(from - 1)) --from;
  return from == kMost ? "-" : std::to_string(from);
}

void Crossings(double elements, const Machine& base) {
  std::cout << "Number of ranks from which on, for " << Millions(elements) << " elements:\n\n";
  std::vector<std::string> head;
  head.push_back("Gbit/s");
  const std::vector<Method> methods = Methods();
  for (const size_t i : {0, 2}) {
    head.push_back("dense beats `" + methods[i].name + "`");
    head.push_back("`" + methods[i + 1].name + "` beats `" + methods[i].name + "`");
    head.push_back("... four times, so `auto` takes it");
  }
  Head(head);
  for (const Network& network : kNetworks) {
    const Machine machine = On(network, base);
    std::vector<std::string> cells;
    cells.push_back(Number(network.gbit));
    for (const size_t i : {0, 2}) {
      const auto seconds = [&](size_t method, double ranks) {
        return methods[method].cost(machine, {.elements = elements, .ranks = ranks}).seconds;
      };
      cells.push_back(From([&](double ranks) {
        return DenseCost(machine, {.elements = elements, .ranks = ranks}).seconds < seconds(i, ranks);
      }));
      cells.push_back(From([&](double ranks) { return seconds(i + 1, ranks) < seconds(i, ranks); }));
      cells.push_back(From([&](double ranks) { return 4 * seconds(i + 1, ranks) < seconds(i, ranks); }));
    }
    Row(cells);
  }
  std::cout << "\n";
}

constexpr char kUsage[] = "usage: scaling [--memcpy GB_PER_S] [--message US] [ROWS_OF_LINKS.json ...]\n";

int Main(const std::vector<std::string>& words) {
  Machine machine;
  std::vector<nlohmann::json> rows;
  for (size_t i = 0; i < words.size(); ++i) {
    const bool memcpy = words[i] == "--memcpy";
    if (memcpy || words[i] == "--message") {
      const double value = i + 1 < words.size() ? std::atof(words[++i].c_str()) : 0;
      if (!(value > 0)) {
        std::cerr << "scaling: " << (memcpy ? "--memcpy" : "--message") << " takes a positive number\n"
                  << kUsage;
        return 2;
      }
      (memcpy ? machine.memcpy_bytes_per_s : machine.message_s) = value * (memcpy ? 1e9 : 1e-6);
      continue;
    }
    std::ifstream file(words[i]);
    const nlohmann::json read = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (!read.is_array()) {
      std::cerr << "scaling: " << words[i] << " holds no rows of benchmarks/links.sh --json\n" << kUsage;
      return 2;
    }
    rows.insert(rows.end(), read.begin(), read.end());
  }
  std::printf(
      "Machine: memcpy %.1f GB/s of gradient, %.1f us of processor for a message, %.1f ns for an entry.\n\n",
      machine.memcpy_bytes_per_s / 1e9, machine.message_s * 1e6, machine.entry_s * 1e9);
  if (!rows.empty()) Check(rows, machine);
  for (const double elements : {1e6, 25.6e6}) Simulate(elements, machine);
  Crossings(25.6e6, machine);
  return 0;
}

}  // namespace
}  // namespace terse

int main(int argc, char** argv) {
  try {
    return terse::Main({argv + 1, argv + argc});
  } catch (const nlohmann::json::exception& error) {
    std::cerr << "scaling: not rows of benchmarks/links.sh --json: " << error.what() << "\n";
    return 2;
  }
}
