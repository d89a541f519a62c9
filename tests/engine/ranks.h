// SPDX-License-Identifier: Apache-2.0
//
// Several ranks in one process, for tests of the engine: a thread and an Engine each, over inproc.
#ifndef TERSE_TESTS_ENGINE_RANKS_H_
#define TERSE_TESTS_ENGINE_RANKS_H_

#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine/engine.h"
#include "transport/loader.h"

namespace terse::engine {

// A configuration for tests from "key=value" settings; small tensors are compressed too, and none goes dense
// because that is faster.
inline wire::Config TestConfig(const std::vector<std::pair<std::string, std::string>>& settings) {
  wire::Settings all;
  EXPECT_TRUE(all.Set("min_elements", "0", wire::Origin::kFlag).ok());
  EXPECT_TRUE(all.Set("exclude", "[]", wire::Origin::kFlag).ok());
  EXPECT_TRUE(all.Set("transport.timeout_s", "20", wire::Origin::kFlag).ok());
  EXPECT_TRUE(all.Set("dense_when_faster", "false", wire::Origin::kFlag).ok());
  for (const auto& [key, value] : settings) {
    const absl::Status status = all.Set(key, value, wire::Origin::kFlag);
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_TRUE(all.Validate().ok()) << all.Validate();
  return all.config();
}

// A rank's gradient in a step: elements of very different sizes, as gradients have.
inline std::vector<float> UnevenGradient(int rank, int step, size_t n) {
  std::mt19937 random(static_cast<uint32_t>(7919 * rank + step));
  std::normal_distribution<float> normal;
  std::vector<float> gradient(n);
  for (float& x : gradient) x = std::exp(normal(random)) * normal(random);
  return gradient;
}

// Runs `body` once a rank, each in a thread of its own with an engine that `open` opens over the rank's
// group, and joins them.
inline void RunRanks(
    int ranks,
    const std::function<absl::StatusOr<std::unique_ptr<Engine>>(int rank, std::unique_ptr<transport::Group>)>&
        open,
    const std::function<void(Engine&)>& body) {
  static std::atomic<int> runs{0};
  const std::string hub = "engine_test_" + std::to_string(runs++);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      transport::OpenOptions options;
      options.rank = r;
      options.world_size = ranks;
      options.hub = hub;
      absl::StatusOr<std::unique_ptr<transport::Group>> group = transport::OpenGroup("inproc", options);
      ASSERT_TRUE(group.ok()) << group.status();
      absl::StatusOr<std::unique_ptr<Engine>> engine = open(r, *std::move(group));
      ASSERT_TRUE(engine.ok()) << engine.status();
      body(**engine);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// config(rank) gives each its configuration.
inline void RunRanks(int ranks, const std::function<wire::Config(int)>& config,
                     const std::function<void(Engine&)>& body) {
  RunRanks(
      ranks,
      [&](int rank, std::unique_ptr<transport::Group> group) {
        return Engine::Open(config(rank), std::move(group));
      },
      body);
}

inline void RunRanks(int ranks, const wire::Config& config, const std::function<void(Engine&)>& body) {
  RunRanks(
      ranks, [&](int) { return config; }, body);
}

}  // namespace terse::engine

#endif  // TERSE_TESTS_ENGINE_RANKS_H_
