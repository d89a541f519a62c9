// SPDX-License-Identifier: Apache-2.0
//
// What each compressor puts on the wire for a gradient of ResNet-50's size over four ranks, headers and
// agreements included, against the dense ring's 2 (N - 1) / N of the gradient.
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

constexpr size_t kN = 5120 * 5000;
constexpr int kRanks = 4;

// Heavy-tailed, different on each rank, cheap: an xorshift walk.
std::vector<float> Gradient(int rank) {
  std::vector<float> g(kN);
  uint32_t state = 2463534242u + static_cast<uint32_t>(rank);
  for (float& x : g) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    const float u = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    x = u * u * u;
  }
  return g;
}

struct Sent {
  double per_step = 0;  // bytes handed to the transport in one step by rank 0
  double payload = 0;   // of these, one copy of the rank's own payload
};

Sent BytesOf(const std::vector<std::pair<std::string, std::string>>& settings) {
  Sent sent;
  RunRanks(kRanks, TestConfig(settings), [&](Engine& engine) {
    const absl::StatusOr<uint32_t> id = engine.Register("w", wire::DType::kFloat32, {5120, 5000});
    ASSERT_TRUE(id.ok());
    std::vector<float> g = Gradient(engine.rank());
    const Call call{.tensor = *id, .send = g.data(), .recv = g.data()};
    ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
    ASSERT_TRUE(engine.Step(1.0).ok());
    if (engine.rank() != 0) return;
    const auto report = nlohmann::json::parse(engine.Report());
    sent.per_step = report["wire_bytes"];
    sent.payload = report["bytes_sent"].get<double>() / (kRanks - 1);
  });
  return sent;
}

constexpr double kGradient = 4.0 * kN;
constexpr double kDenseRing = 2.0 * (kRanks - 1) / kRanks * kGradient;

TEST(BytesTest, DgcAtOneInAThousand) {
  for (const char* index : {"u32", "rice"}) {
    const Sent sent = BytesOf({{"method", "dgc"}, {"dgc.density", "0.001"}, {"topk.index", index}});
    EXPECT_LE(sent.payload, kGradient / 450) << index;
    EXPECT_LE(sent.per_step, kDenseRing / 200) << index;
    EXPECT_GE(sent.payload, 0.0009 * kN * 4) << index << ": k values must have been sent";
  }
}

TEST(BytesTest, OneBit) {
  const Sent sent = BytesOf({{"compressor", "onebit"}});
  EXPECT_LE(sent.per_step, kDenseRing / 30);
  EXPECT_GE(sent.per_step, kDenseRing / 32);
}

TEST(BytesTest, FourBits) {
  const Sent sent = BytesOf({{"compressor", "quantize"}});
  EXPECT_LE(sent.per_step, kDenseRing / 7.7);
  EXPECT_GE(sent.per_step, kDenseRing / 8);
}

TEST(BytesTest, PowerSgd) {
  const Sent sent = BytesOf({{"compressor", "powersgd"}, {"powersgd.rank", "4"}});
  const double factors = 4.0 * (5120 + 5000) / kN;
  EXPECT_LE(sent.per_step, kDenseRing * factors + 1000);
  EXPECT_GE(sent.per_step, kDenseRing * factors);
}

}  // namespace
}  // namespace terse::engine
