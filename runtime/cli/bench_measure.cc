// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bench_measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/cli/environment.h"
#include "runtime/cli/exit_code.h"
#include "runtime/cli/gradient_source.h"

namespace terse::cli {
namespace {

// Gradient, two results, and what the engine keeps or needs per element: residual, state, scratch,
// payloads of all ranks. Generous, so that a machine does not swap.
constexpr double kBytesPerElement = 48;

double TimeMs(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    difference += d * d;
    norm += static_cast<double>(want[i]) * want[i];
  }
  return std::sqrt(difference / norm);
}

// The ranks' own business beside what is measured: sums exactly, whatever the configuration.
class Control {
 public:
  explicit Control(Group* group)
      : group_(group),
        barrier_(group->Register("barrier", {1})),
        rank_(group->rank()),
        size_(group->size()) {}

  int32_t rank() const { return rank_; }
  int32_t size() const { return size_; }

  void Barrier() {
    float token = 1;
    group_->Allreduce(barrier_, &token, &token);
  }

  // Every rank's `own`, one after the other in rank order. Once per Control.
  std::vector<std::vector<double>> Gather(const std::vector<double>& own) {
    const size_t n = own.size();
    std::vector<double> all(n * static_cast<size_t>(size_));
    std::copy(own.begin(), own.end(), all.begin() + static_cast<ptrdiff_t>(n) * rank_);
    const TensorId tensor = group_->Register("samples", {size_, static_cast<int64_t>(n)}, TERSE_FLOAT64);
    group_->Allreduce(tensor, all.data(), all.data());
    std::vector<std::vector<double>> ranks;
    for (auto at = all.begin(); at != all.end(); at += static_cast<ptrdiff_t>(n)) {
      ranks.emplace_back(at, at + static_cast<ptrdiff_t>(n));
    }
    return ranks;
  }

 private:
  Group* group_;
  TensorId barrier_;
  int32_t rank_;
  int32_t size_;
};

std::vector<Setting> With(std::vector<Setting> settings, const std::vector<Setting>& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

// Plain sums of gradients, whatever the case's method makes of them.
std::vector<Setting> DenseSettings() { return {{"disable", "true"}, {"method", "allreduce"}}; }
std::vector<Setting> ControlSettings() { return With(DenseSettings(), {{"reduce", "sum"}}); }

// What a group's report says so far of its only tensor.
struct Totals {
  double bytes_sent = 0;
  double encode_ms = 0;
  double exchange_ms = 0;
  double decode_ms = 0;
};
Totals ReadTotals(const nlohmann::json& report) {
  return {report.at("bytes_sent"), report.at("encode_ms"), report.at("exchange_ms"), report.at("decode_ms")};
}

// As square a matrix as the number allows: powersgd has nothing to do on a vector.
std::vector<int64_t> ShapeOf(int64_t elements) {
  auto rows = static_cast<int64_t>(std::sqrt(static_cast<double>(elements)));
  while (elements % rows != 0) --rows;
  return {rows, elements / rows};
}

// One rank's part. The dense and the compressed group serve one tensor each.
class RankBench {
 public:
  RankBench(Group* control, Group* dense, Group* compressed, int64_t elements, const BenchOptions& options)
      : control_(control),
        dense_(dense),
        compressed_(compressed),
        options_(options),
        gradients_(options.seed, control_.rank()),
        dense_tensor_(dense->Register("gradient", ShapeOf(elements))),
        compressed_tensor_(compressed->Register("gradient", ShapeOf(elements))),
        gradient_(static_cast<size_t>(elements)),
        dense_out_(gradient_.size()),
        compressed_out_(gradient_.size()) {}

  std::optional<BenchResult> Run(int warmup) {
    Totals before;
    for (int i = 0; i < warmup + options_.repeat; ++i) {
      if (i == warmup) before = ReadTotals(Report());
      Repeat(i, i >= warmup);
    }
    const nlohmann::json report = Report();
    return Collect(before, report);
  }

 private:
  nlohmann::json Report() const { return nlohmann::json::parse(compressed_->Report()); }

  void Repeat(int i, bool counts) {
    gradients_.Fill(static_cast<uint64_t>(i), gradient_.data(), gradient_.size());
    double dense_ms = 0;
    double compressed_ms = 0;
    // Also afterwards: ranks may share processors, and one that is done would take the next gradient's time
    // from one that is not.
    const auto dense = [&] {
      control_.Barrier();
      dense_ms = TimeMs([&] { dense_->Allreduce(dense_tensor_, gradient_.data(), dense_out_.data()); });
      control_.Barrier();
    };
    const auto compressed = [&] {
      control_.Barrier();
      compressed_ms = TimeMs([&] {
        compressed_->Allreduce(compressed_tensor_, gradient_.data(), compressed_out_.data());
        compressed_->Step(1.0);
      });
      control_.Barrier();
    };
    const bool dense_first = i % 2 == 0;
    if (options_.dense && dense_first) dense();
    compressed();
    if (options_.dense && !dense_first) dense();
    if (!counts) return;
    times_.push_back(dense_ms);
    times_.push_back(compressed_ms);
    if (options_.dense && control_.rank() == 0)
      error_ = std::max(error_, RelativeError(compressed_out_, dense_out_));
  }

  std::optional<BenchResult> Collect(const Totals& before, const nlohmann::json& report) {
    const Totals after = ReadTotals(report);
    std::vector<double> own = times_;
    own.push_back(after.bytes_sent - before.bytes_sent);
    const std::vector<std::vector<double>> ranks = control_.Gather(own);
    if (control_.rank() != 0) return std::nullopt;

    std::vector<double> slowest = ranks[0];
    for (const std::vector<double>& rank : ranks) {
      for (size_t i = 0; i < slowest.size(); ++i) slowest[i] = std::max(slowest[i], rank[i]);
    }
    std::vector<double> dense;
    std::vector<double> compressed;
    for (size_t i = 0; i + 1 < slowest.size(); i += 2) {
      dense.push_back(slowest[i]);
      compressed.push_back(slowest[i + 1]);
    }
    BenchResult result;
    const double n = options_.repeat;
    if (options_.dense) result.dense_ms = Median(dense);
    result.terse_ms = Median(compressed);
    result.encode_ms = (after.encode_ms - before.encode_ms) / n;
    result.exchange_ms = (after.exchange_ms - before.exchange_ms) / n;
    result.decode_ms = (after.decode_ms - before.decode_ms) / n;
    result.bytes_sent = slowest.back() / n;
    result.world_size = control_.size();
    result.elements = static_cast<int64_t>(gradient_.size());
    result.ring_bytes = 2.0 * (result.world_size - 1) / result.world_size * 4.0 * gradient_.size();
    result.transport = report.at("transport");
    result.method = report.at("method");
    result.compressor = report.at("compressor");
    const nlohmann::json& tensor = report.at("tensors").at(0);
    result.codec = tensor.at("codec");
    result.exchange = tensor.at("exchange");
    result.reason = tensor.at("reason");
    if (options_.dense && result.method == "allreduce") result.relative_error = error_;
    return result;
  }

  Control control_;
  Group* dense_;
  Group* compressed_;
  const BenchOptions options_;
  const GradientSource gradients_;
  TensorId dense_tensor_;
  TensorId compressed_tensor_;
  std::vector<float> gradient_;
  std::vector<float> dense_out_;
  std::vector<float> compressed_out_;
  std::vector<double> times_;  // dense, compressed, dense, compressed, ...
  double error_ = 0;
};

// 1-bit Adam sends exact gradients until its variance is frozen, which is not what is to be measured. When
// it settles is a matter of training, so that a case leaves open is frozen after one step. Nor is a choice
// between dense and compressed, where both are measured; who sets it all the same gets it.
std::vector<Setting> MeasuredSettings(const std::vector<ConfigLine>& config,
                                      const std::vector<Setting>& settings) {
  std::vector<Setting> measured = settings;
  if (FindLine(config, "adam.freeze").value == "auto") measured = With(measured, {{"adam.freeze", "1"}});
  if (FindLine(config, "dense_when_faster").origin == "default") {
    measured = With(measured, {{"dense_when_faster", "false"}});
  }
  return measured;
}
int WarmupOf(const std::vector<ConfigLine>& config, const BenchOptions& options) {
  if (FindLine(config, "method").value != "onebit_adam") return options.warmup;
  return std::max(options.warmup, std::stoi(FindLine(config, "adam.freeze").value) + 1);
}

}  // namespace

std::optional<BenchResult> Measure(BenchWorld& world, const BenchCase& bench_case, int64_t elements,
                                   const BenchOptions& options) {
  const std::vector<Setting> settings =
      MeasuredSettings(ResolveConfig(world.file(), bench_case.settings), bench_case.settings);
  const int warmup = WarmupOf(ResolveConfig(world.file(), settings), options);
  std::vector<Group> control = world.Open(ControlSettings());
  std::vector<Group> dense = world.Open(With(settings, DenseSettings()));
  std::vector<Group> compressed =
      world.Open(options.trace.empty() ? settings : With(settings, {{"trace", options.trace}}));
  std::optional<BenchResult> result;
  world.ForEachRank([&](int i) {
    const size_t rank = static_cast<size_t>(i);
    // Owned by the rank's thread from here on, so that a rank that fails leaves at once.
    Group mine[] = {std::move(control[rank]), std::move(dense[rank]), std::move(compressed[rank])};
    std::optional<BenchResult> collected =
        RankBench(&mine[0], &mine[1], &mine[2], elements, options).Run(warmup);
    for (Group& group : mine) group.Close();
    if (collected) result = std::move(collected);
  });
  if (result) {
    result->name = bench_case.name;
    result->settings = bench_case.settings;
  }
  return result;
}

std::vector<int64_t> KeepWhatFits(BenchWorld& world, const std::vector<int64_t>& sizes, int ranks_on_host) {
  const double memory = AvailableMemory() / 2;
  std::vector<double> fits;
  for (const int64_t size : sizes) {
    const double needed = static_cast<double>(size) * kBytesPerElement * ranks_on_host;
    fits.push_back(memory == 0 || needed <= memory ? 1 : 0);
  }
  std::vector<Group> groups = world.Open(ControlSettings());
  std::vector<int64_t> kept;
  world.ForEachRank([&](int i) {
    Group mine = std::move(groups[static_cast<size_t>(i)]);
    Control control(&mine);
    const std::vector<std::vector<double>> ranks = control.Gather(fits);
    if (i != 0) return;
    for (size_t s = 0; s < sizes.size(); ++s) {
      const bool all = std::all_of(ranks.begin(), ranks.end(),
                                   [s](const std::vector<double>& rank) { return rank[s] == 1; });
      if (all || s == 0) kept.push_back(sizes[s]);
    }
  });
  return kept;
}

}  // namespace terse::cli
