// SPDX-License-Identifier: Apache-2.0
//
// Ranks whose links' times are told by the test, for what an engine decides from times.
#ifndef TERSE_TESTS_ENGINE_PRICED_RANKS_H_
#define TERSE_TESTS_ENGINE_PRICED_RANKS_H_

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/engine/priced_group.h"
#include "tests/engine/ranks.h"

namespace terse::engine {

inline constexpr size_t kN = 700;

// On a link whose bytes cost a codec is faster that sends fewer; where messages cost, dense needs fewest.
// Times of either go down by more than half when the link becomes fast.
inline void Turn(bool fast, PricedLink* link, double factor = 1) {
  link->latency_ms = factor * (fast ? 0.1 : 0.5);
  link->ms_per_byte = factor * (fast ? 0 : 0.001);
}

inline wire::Config Faster(std::vector<std::pair<std::string, std::string>> settings = {}) {
  settings.insert(settings.begin(), {"dense_when_faster", "true"});
  return TestConfig(settings);
}

// A rank of a test: an engine with one tensor (more, if asked for), and its link.
class Rank {
 public:
  Rank(Engine& its_engine, PricedLink* its_link)
      : link(*its_link), engine(its_engine), random_(100 + static_cast<uint64_t>(its_engine.rank())) {}

  void Register(size_t tensors = 1, wire::DType dtype = wire::DType::kFloat32) {
    for (size_t i = 0; i < tensors; ++i) {
      const auto id = engine.Register(absl::StrCat("w", i), dtype, {28, 25});
      ASSERT_TRUE(id.ok()) << id.status();
      out.resize(i + 1, std::vector<float>(kN));
    }
  }
  bool dense(uint32_t tensor = 0) const { return engine.row(tensor).codec == wire::Codec::kNone; }

  // All tensors, with gradients of normal noise.
  void Exchange() {
    for (float& g : gradient) g = normal_(random_);
    std::vector<Call> calls;
    for (size_t i = 0; i < out.size(); ++i) {
      calls.push_back({.tensor = static_cast<uint32_t>(i), .send = gradient.data(), .recv = out[i].data()});
    }
    const absl::Status status = engine.Allreduce(calls);
    ASSERT_TRUE(status.ok()) << status;
  }
  void ExchangeZeros() {
    std::fill(gradient.begin(), gradient.end(), 0.0f);
    const absl::Status status =
        engine.Allreduce({{.tensor = 0, .send = gradient.data(), .recv = out[0].data()}});
    ASSERT_TRUE(status.ok()) << status;
  }
  void Step(double applied = 1.0) {
    const absl::Status status = engine.Step(applied);
    ASSERT_TRUE(status.ok()) << status;
  }
  void Steps(int n) {
    for (int i = 0; i < n; ++i) {
      Exchange();
      Step();
    }
  }
  // Steps until the tensor goes the other way; how many, at most `most`.
  int UntilSwitched(int most) {
    const bool was = dense();
    int n = 0;
    for (; n < most && dense() == was; ++n) Steps(1);
    return n;
  }
  nlohmann::json Report() const { return nlohmann::json::parse(engine.Report()); }

  PricedLink& link;
  Engine& engine;
  std::vector<float> gradient = std::vector<float>(kN);
  std::vector<std::vector<float>> out;

 private:
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
};

inline void RunPriced(int ranks, const wire::Config& config, const std::function<void(Rank&)>& body,
                      bool one_machine = false) {
  std::vector<PricedLink> links(static_cast<size_t>(ranks));
  for (PricedLink& link : links) link.one_machine = one_machine;
  RunRanks(
      ranks,
      [&](int rank, std::unique_ptr<transport::Group> group) {
        PricedLink* const link = &links[static_cast<size_t>(rank)];
        return Engine::Open(config, std::make_unique<PricedGroup>(std::move(group), link), *link);
      },
      [&](Engine& engine) {
        Rank rank(engine, &links[static_cast<size_t>(engine.rank())]);
        body(rank);
      });
}

// |a - b| / |b|
inline double RelativeDifference(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace terse::engine

#endif  // TERSE_TESTS_ENGINE_PRICED_RANKS_H_
