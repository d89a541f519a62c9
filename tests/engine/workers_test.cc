// SPDX-License-Identifier: Apache-2.0
//
// Kernel threads: the pool itself, and that nothing of what is sent, kept or delivered depends on how many
// there are.
#include "compressors/workers.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "compressors/topk.h"
#include "gtest/gtest.h"
#include "runtime/engine/buffer.h"
#include "runtime/workers/worker_pool.h"
#include "tests/compressors/codec_cases.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::CodecCase;
using ::terse::testing::Normal;
using Vector = std::vector<float>;

constexpr size_t kCounts[] = {2, 3, 5};
// Threaded, and no multiple of anything.
constexpr size_t kN = kThreadedElements + 12'347;

TEST(WorkerPool, RunsEveryTaskOnceAndSharesThem) {
  for (const size_t count : {1, 2, 5}) {
    WorkerPool pool(count);
    EXPECT_EQ(pool.count(), count);
    for (const size_t tasks : {0, 1, 7, 1000}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        std::vector<int> runs(tasks);  // not atomic: what tasks wrote is visible
        pool.Run(tasks, [&](size_t i) { ++runs[i]; });
        EXPECT_EQ(runs, std::vector<int>(tasks, 1));
      }
    }
  }
}

TEST(WorkerPool, TasksRunAtTheSameTime) {
  WorkerPool pool(3);
  std::atomic<int> inside = 0;
  std::set<std::thread::id> threads;
  std::mutex mutex;
  // Each waits for the others: one thread alone would never end.
  pool.Run(3, [&](size_t) {
    ++inside;
    while (inside < 3) std::this_thread::yield();
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(threads.size(), 3u);
}

TEST(WorkerPool, AwakensAfterASleep) {
  WorkerPool pool(2);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> ran = 0;
    pool.Run(2, [&](size_t) {
      ++ran;
      while (ran < 2) std::this_thread::yield();
    });
    EXPECT_EQ(ran, 2);
  }
}

TEST(ForRanges, CoversTheVectorInMultiplesOfTheAlignment) {
  WorkerPool pool(3);
  const ScopedWorkers scope(&pool);
  for (const size_t align : {1, 48, 512, 100'000}) {
    for (const size_t n : {size_t{0}, size_t{5}, kThreadedElements - 1, kThreadedElements, kN}) {
      std::vector<uint8_t> seen(n);
      std::atomic<size_t> ranges = 0;
      ForRanges(n, align, [&](size_t begin, size_t end) {
        EXPECT_EQ(begin % align, 0u);
        EXPECT_TRUE(end == n || end % align == 0);
        for (size_t i = begin; i < end; ++i) ++seen[i];
        ++ranges;
      });
      EXPECT_EQ(seen, std::vector<uint8_t>(n, 1));
      if (n < kThreadedElements) {
        EXPECT_EQ(ranges, 1u);
      }
      if (n == kN && align <= 512) {
        EXPECT_GT(ranges, 3u);
      }
    }
  }
}

class Threads : public ::testing::TestWithParam<CodecCase> {};
INSTANTIATE_TEST_SUITE_P(AllCodecs, Threads, ::testing::ValuesIn(::terse::testing::AllCases()),
                         [](const auto& instance) { return instance.param.name; });

// Payloads, residuals and what is decoded, over steps, with an input that is not finite among them.
TEST_P(Threads, GiveTheBitsOfOneThread) {
  struct Step {
    bool nonfinite = false;
    std::vector<std::vector<std::byte>> payloads;
    Vector decoded, residual, sum;
  };
  const auto run = [&](Workers* workers) {
    const ScopedWorkers scope(workers);
    ::terse::testing::Tensor tensor(GetParam(), kN);
    std::vector<Step> steps;
    for (uint32_t s = 0; s < 3; ++s) {
      Vector input = Normal(kN, s);
      if (s == 1) input[kN - 5] = std::numeric_limits<float>::infinity();
      RandomKey random;
      random.step = s;
      Step step;
      step.nonfinite = tensor.Encode(input, random).nonfinite;
      step.payloads = tensor.payloads();
      step.decoded = tensor.Decoded();
      step.residual = tensor.residual();
      if (GetParam().codec->kind() != Kind::kLinear) {
        step.sum.resize(kN);
        const std::vector<wire::Bytes> all(3, step.payloads[0]);
        EXPECT_TRUE(GetParam().codec->DecodeSum(GetParam().params, all, 0.3f, absl::MakeSpan(step.sum)).ok());
      }
      steps.push_back(std::move(step));
    }
    return steps;
  };
  const std::vector<Step> expected = run(nullptr);
  EXPECT_TRUE(expected[1].nonfinite);
  for (const size_t count : kCounts) {
    SCOPED_TRACE(count);
    WorkerPool pool(count);
    const std::vector<Step> steps = run(&pool);
    for (size_t s = 0; s < steps.size(); ++s) {
      EXPECT_EQ(steps[s].nonfinite, expected[s].nonfinite);
      EXPECT_EQ(steps[s].payloads, expected[s].payloads);
      EXPECT_EQ(Bits(steps[s].decoded), Bits(expected[s].decoded));
      EXPECT_EQ(Bits(steps[s].residual), Bits(expected[s].residual));
      EXPECT_EQ(Bits(steps[s].sum), Bits(expected[s].sum));
    }
  }
}

using Settings = std::vector<std::pair<std::string, std::string>>;

// Results of a few steps of rank 0, one of them skipped, one applied in part.
std::vector<uint32_t> Exchange(Settings settings, int threads) {
  settings.emplace_back("threads", std::to_string(threads));
  std::vector<uint32_t> bits;
  RunRanks(2, TestConfig(settings), [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {49, int64_t{kN} / 49}).ok());
    const size_t n = kN / 49 * 49;
    Vector out(n);
    for (uint32_t step = 0; step < 4; ++step) {
      const Vector g = Normal(n, 10 * step + static_cast<uint32_t>(engine.rank()));
      ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = g.data(), .recv = out.data()}}).ok());
      ASSERT_TRUE(engine.Step(step == 1 ? 0.0 : step == 2 ? 0.5 : 1.0).ok());
      if (engine.rank() != 0) continue;
      const std::vector<uint32_t> now = Bits(out);
      bits.insert(bits.end(), now.begin(), now.end());
    }
  });
  return bits;
}

// What topk tells early, as bits.
class Told final : public EarlyEntries {
 public:
  size_t stretch() const override { return kN / 2; }
  void Add(uint32_t position, float value) override { entries.emplace_back(position, value); }
  void EndStretch(size_t) override {}

  std::vector<std::pair<uint32_t, float>> entries;
};

// Gradients grow until there are too many candidates to keep, at some scale of a second thread's; what lies
// in the scratch then is none.
TEST(ThreadsThatTellEarly, TellWhatOneThreadTells) {
  const Compressor& codec = TopKCompressor();
  wire::CodecParams params;
  params.density = 0.01;
  const auto run = [&](Workers* workers, size_t step, double growth) {
    const ScopedWorkers scope(workers);
    std::vector<std::byte> state(codec.StateBytes(params, kN));
    std::vector<std::byte> payload(codec.MaxPayloadBytes(params, kN));
    Told told;
    for (size_t s = 0; s <= step; ++s) {
      Vector gradient = Normal(kN, static_cast<uint32_t>(s));
      for (size_t i = kN / 4; s == step && i < kN / 2; ++i) gradient[i] *= static_cast<float>(growth);
      Buffer<std::byte> scratch;
      EncodeArgs args;
      args.input = gradient;
      args.state = absl::MakeSpan(state);
      args.scratch = scratch.Get(codec.ScratchBytes(params, kN));
      std::fill(args.scratch.begin(), args.scratch.end(), std::byte{0x7e});  // large as floats
      args.early = &told;
      told.entries.clear();
      Shard shard{.begin = 0, .end = kN, .out = absl::MakeSpan(payload), .size = 0};
      EXPECT_TRUE(codec.Encode(params, args, {&shard, 1}).ok());
    }
    return told.entries;
  };
  size_t told = 0;
  for (const size_t count : kCounts) {
    WorkerPool pool(count);
    for (double growth = 1.0; growth < 8.0; growth *= 1.1) {
      const auto one = run(nullptr, 2, growth);
      ASSERT_EQ(run(&pool, 2, growth), one) << count << " threads, growth " << growth;
      told = std::max(told, one.size());
    }
  }
  EXPECT_GT(told, TopKCount(params.density, kN)) << "too many to keep at some growth";
}

TEST(ThreadsOfAnExchange, ChangeNoBit) {
  for (const Settings& settings : {Settings{{"compressor", "onebit"}}, Settings{{"compressor", "quantize"}},
                                   Settings{{"compressor", "powersgd"}}, Settings{{"compressor", "topk"}},
                                   Settings{{"compressor", "topk"}, {"topk.exchange", "sparse_reduce"}},
                                   Settings{{"compressor", "fp16"}}, Settings{{"method", "dgc"}},
                                   Settings{{"method", "dgc"}, {"dgc.nesterov", "true"}},
                                   Settings{{"method", "onebit_adam"}, {"adam.freeze", "2"}}}) {
    SCOPED_TRACE(settings[0].second);
    const std::vector<uint32_t> one = Exchange(settings, 1);
    ASSERT_FALSE(one.empty());
    EXPECT_EQ(Exchange(settings, 2), one);
    EXPECT_EQ(Exchange(settings, 3), one);
  }
}

}  // namespace
}  // namespace terse::engine
