// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/kernels/kernel_bench.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "compressors/kernels/dispatch.h"
#include "compressors/memory/large_vector.h"
#include "compressors/workers.h"
#include "runtime/cli/kernels/kernel_paths.h"
#include "runtime/workers/worker_pool.h"

namespace terse::cli {
namespace {

constexpr int kWarmup = 3;  // steps, after which residuals are no longer zero
constexpr int kLeastRepetitions = 21;
constexpr int kMostRepetitions = 501;
constexpr size_t kElementsToTouch = size_t{1} << 29;

// Each step's gradient is another window of one long vector, so that no element gets the same value twice
// in a row; steps are aligned like the vector.
constexpr size_t kWindowStep = 16 * 37;
constexpr size_t kWindows = 64;

struct Sample {
  double ms = 0;
  bool preempted = false;
};

long Preemptions() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

template <typename Body>
Sample Time(const Body& body) {
  using Clock = std::chrono::steady_clock;
  const long before = Preemptions();
  const Clock::time_point start = Clock::now();
  body();
  const Clock::time_point end = Clock::now();
  return {std::chrono::duration<double, std::milli>(end - start).count(), Preemptions() != before};
}

// Of the samples that were not preempted, or of all where that leaves less than half.
struct Median {
  double ms = 0;
  int kept = 0;
};
Median MedianOf(const std::vector<Sample>& samples) {
  std::vector<double> good;
  for (const Sample& sample : samples) {
    if (!sample.preempted) good.push_back(sample.ms);
  }
  if (2 * good.size() < samples.size()) {
    good.clear();
    for (const Sample& sample : samples) good.push_back(sample.ms);
  }
  const auto middle = good.begin() + static_cast<ptrdiff_t>(good.size() / 2);
  std::nth_element(good.begin(), middle, good.end());
  return {*middle, static_cast<int>(good.size())};
}

int RepetitionsFor(size_t n) {
  return static_cast<int>(
      std::clamp<size_t>(kElementsToTouch / n, size_t{kLeastRepetitions}, size_t{kMostRepetitions}));
}

}  // namespace

struct KernelBench::Memory {
  explicit Memory(size_t elements)
      : n(elements), gradients(elements + kWindows * kWindowStep), copy(elements) {}

  std::span<const float> Gradient(uint64_t step) const {
    return std::span(gradients).subspan(step % kWindows * kWindowStep, n);
  }

  const size_t n;
  FloatVector gradients;
  FloatVector copy;
};

KernelBench::KernelBench(size_t n, const FillGradient& fill) : memory_(new Memory(n)) {
  fill(memory_->gradients);
}

KernelBench::~KernelBench() { delete memory_; }

KernelResult KernelBench::Measure(const std::string& kernel, int threads, int repeat) {
  const size_t n = memory_->n;
  WorkerPool pool(static_cast<size_t>(threads));
  if (pool.count() != static_cast<size_t>(threads)) {
    throw std::runtime_error("the system gives no more than " + std::to_string(pool.count()) + " threads");
  }
  const ScopedWorkers scope(&pool);
  const int repetitions = repeat > 0 ? repeat : RepetitionsFor(n);
  KernelResult result;
  result.kernel = kernel;
  result.elements = n;
  result.threads = threads;
  result.target = KernelTarget();
  for (const std::unique_ptr<KernelPath>& path : MakeKernelPaths(kernel, n)) {
    path->Prepare(memory_->Gradient(kWindows - 1));
    std::vector<Sample> kernels;
    std::vector<Sample> copies;
    for (int i = 0; i < kWarmup + repetitions; ++i) {
      const auto step = static_cast<uint64_t>(i);
      const std::span<const float> gradient = memory_->Gradient(step);
      const Sample copied = Time([&] {
        ForRanges(n, 1, [&](size_t begin, size_t end) {
          std::memcpy(memory_->copy.data() + begin, gradient.data() + begin, (end - begin) * sizeof(float));
        });
      });
      const Sample ran = Time([&] { path->Run(step, gradient); });
      if (i < kWarmup) continue;
      copies.push_back(copied);
      kernels.push_back(ran);
    }
    const Median copied = MedianOf(copies);
    const Median ran = MedianOf(kernels);
    if (result.kept > 0 && ran.ms / copied.ms <= result.ratio()) continue;
    result.ms = ran.ms;
    result.memcpy_ms = copied.ms;
    result.kept = ran.kept;
  }
  if (result.kept == 0) throw std::runtime_error("there is no kernel " + kernel);
  return result;
}

}  // namespace terse::cli
