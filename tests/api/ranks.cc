// SPDX-License-Identifier: Apache-2.0
#include "tests/api/ranks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <thread>

namespace terse::testing {
namespace {

constexpr char kCompressAll[] = "\nmin_elements: 1\nexclude: []\n";

}  // namespace

std::string UniqueHub() {
  static std::atomic<int> next = 0;
  return "test-" + std::to_string(next++);
}

std::string InprocYaml(int rank, int size, const std::string& hub, const std::string& more, int timeout_s) {
  return "rank: " + std::to_string(rank) + "\nworld_size: " + std::to_string(size) +
         "\ntransport: {name: inproc, timeout_s: " + std::to_string(timeout_s) + ", hub: " + hub +
         "}\ndense_when_faster: false\n" + more;
}

std::vector<Outcome> RunRanks(int size, const std::function<std::string(int rank)>& yaml, const Body& body) {
  const std::string hub = UniqueHub();
  std::vector<Outcome> outcomes(static_cast<size_t>(size));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          Group group(InprocYaml(rank, size, hub, yaml(rank)));
          body(group, rank);
          group.Close();
        } catch (const Error& error) {
          outcomes[static_cast<size_t>(rank)] = {error.status(), error.what()};
        }
      });
    }
  }
  return outcomes;
}

std::vector<Outcome> RunRanks(int size, const std::string& yaml, const Body& body) {
  return RunRanks(
      size, [&yaml](int) { return yaml; }, body);
}

void RunRanksOk(int size, const std::string& yaml, const Body& body) {
  const std::vector<Outcome> outcomes = RunRanks(size, yaml, body);
  for (size_t rank = 0; rank < outcomes.size(); ++rank) {
    EXPECT_EQ(outcomes[rank].status, TERSE_OK) << "rank " << rank << ": " << outcomes[rank].detail;
  }
}

Vector Noise(size_t n, int rank, int step) {
  std::mt19937 random(static_cast<uint32_t>(7919 * rank + 104729 * step + 1));
  std::normal_distribution<float> normal;
  Vector out(n);
  for (size_t i = 0; i < n; ++i) out[i] = normal(random) * (i % 16 == 0 ? 2.0f : 0.5f);
  return out;
}

Vector WholeNumbers(size_t n, int rank, int step) {
  std::mt19937 random(static_cast<uint32_t>(31 * rank + 1009 * step + 7));
  Vector out(n);
  for (float& value : out) value = static_cast<float>(static_cast<int>(random() % 17) - 8);
  return out;
}

std::vector<double> MeanOverRanks(int size, const std::function<Vector(int rank)>& make) {
  std::vector<double> mean;
  for (int rank = 0; rank < size; ++rank) AddTo(&mean, make(rank), 1.0 / size);
  return mean;
}

double RelativeError(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

double RelativeError(const Vector& a, const std::vector<double>& b) {
  return RelativeError(std::vector<double>(a.begin(), a.end()), b);
}

void AddTo(std::vector<double>* sum, const Vector& values, double factor) {
  if (sum->empty()) sum->resize(values.size());
  ASSERT_EQ(sum->size(), values.size());
  for (size_t i = 0; i < values.size(); ++i) (*sum)[i] += factor * values[i];
}

bool SameBits(const Vector& a, const Vector& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

const std::vector<CodecCase>& CodecCases() {
  static const auto& cases = *new std::vector<CodecCase>([] {
    // First errors: rounding of fp32; half a unit of 11 and 8 bits, twice; half a step of a block's range
    // (some 35 times the noise's deviation here), twice; the norm of what a sign and a scale leave; what
    // the largest 5 % leave of this noise; all of it, since a projection never adds. Drained: see
    // residual_test.cc.
    std::vector<CodecCase> all = {
        {"none", "compressor: none", 1e-6, 1e-6},
        {"fp16", "compressor: fp16", 1e-3, 1e-5},
        {"bf16", "compressor: bf16", 8e-3, 1e-5},
        {"topk_rice", "compressor: topk\ntopk: {density: 0.05, index: rice}", 0.9, 1e-5},
        {"topk_u32", "compressor: topk\ntopk: {density: 0.05, index: u32}", 0.9, 1e-5},
        {"topk_sampled_fp16", "compressor: topk\ntopk: {density: 0.05, selection: sampled, values: fp16}",
         0.9, 1e-5},
        {"onebit_l2", "compressor: onebit", 1.6, 0.05},
        {"onebit_l1", "compressor: onebit\nonebit: {scale: l1}", 1.0, 0.2},
        {"onebit_blocks", "compressor: onebit\nonebit: {block: 256}", 1.6, 0.05},
        {"quantize4", "compressor: quantize", 0.5, 1e-3},
        {"quantize8", "compressor: quantize\nquantize: {bits: 8, block: 128}", 0.03, 1e-4},
        {"quantize2", "compressor: quantize\nquantize: {bits: 2, block: 64}", 3.0, 0.05},
        {"quantize4_stochastic", "compressor: quantize\nquantize: {rounding: stochastic}", 1.0, 1e-2},
        {"powersgd", "compressor: powersgd", 1.0, 1e-5},
        {"powersgd_averaged", "compressor: powersgd\npowersgd: {rank: 2, error: averaged}", 1.0, 1e-5},
    };
    for (CodecCase& codec : all) codec.yaml += kCompressAll;
    return all;
  }());
  return cases;
}

std::vector<CodecCase> CodecCasesWithMemory() { return {CodecCases().begin() + 1, CodecCases().end()}; }

void PrintTo(const CodecCase& codec, std::ostream* out) { *out << codec.name; }

const std::vector<MethodCase>& MethodCases() {
  static const auto& cases = *new std::vector<MethodCase>([] {
    std::vector<MethodCase> all;
    for (const CodecCase& codec : CodecCases()) all.push_back({codec.name, codec.yaml});
    const auto add = [&](const std::string& name, const std::string& yaml) {
      all.push_back({name, yaml + kCompressAll});
    };
    const std::string quantize = "compressor: quantize\nquantize: {";
    add("quantize1", quantize + "bits: 1}");
    add("quantize1_stochastic",
        quantize + "bits: 1, block: 64, rounding: stochastic}\nerror_feedback: false");
    add("quantize4_max", quantize + "span: max}");
    add("quantize4_l2", quantize + "span: l2, block: 48, rounding: stochastic}");
    add("quantize2_stochastic", quantize + "bits: 2, rounding: stochastic}");
    add("quantize8_stochastic", quantize + "bits: 8, rounding: stochastic}");
    add("onebit_l1_blocks", "compressor: onebit\nonebit: {scale: l1, block: 64}");
    add("topk_bf16", "compressor: topk\ntopk: {density: 0.05, index: u32, values: bf16}");
    add("sum", "reduce: sum\ncompressor: quantize");
    add("no_feedback", "error_feedback: false\ncompressor: onebit");
    const std::string sparse = "exchange: sparse_reduce";
    add("topk_sparse", "compressor: topk\ntopk: {density: 0.05, " + sparse + "}");
    add("topk_sparse_bf16",
        "compressor: topk\ntopk: {density: 0.05, index: u32, values: bf16, " + sparse + "}");
    add("topk_warmup", "compressor: topk\ntopk: {density: 0.01, warmup_steps: 16}");
    const std::string dgc = "method: dgc\ncompressor: topk\ndgc: {density: 0.02, ";
    add("dgc", dgc + "momentum: 0.9}");
    add("dgc_nesterov", dgc + "nesterov: true}");
    add("dgc_unmasked", dgc + "masking: false}");
    add("dgc_warmup", dgc + "warmup_steps: 16, warmup_density: [1.0, 0.25, 0.05]}");
    add("dgc_clipped", dgc + "clip: 0.5}");
    add("dgc_sampled_fp16", dgc + "momentum: 0.9}\ntopk: {selection: sampled, values: fp16}");
    add("dgc_sparse", dgc + "momentum: 0.9}\ntopk: {" + sparse + "}");
    add("dgc_sparse_nesterov", dgc + "nesterov: true}\ntopk: {values: fp16, " + sparse + "}");
    const std::string adam = "method: onebit_adam\ncompressor: onebit\nadam: {";
    add("adam_warmup", adam + "freeze: 100}");
    add("adam_frozen", adam + "freeze: 5}");
    add("adam_across_freeze", adam + "freeze: 14}");
    add("adam_auto", adam + "beta2: 0.9, freeze: auto}");
    add("adam_auto_corrected", adam + "beta2: 0.8, freeze: auto, bias_correction: true}");
    return all;
  }());
  return cases;
}

void PrintTo(const MethodCase& method, std::ostream* out) { *out << method.name; }

}  // namespace terse::testing
