// SPDX-License-Identifier: Apache-2.0
//
// Scatter-reduce in pieces: how a batch is cut, and that a tensor of many pieces loses nothing on its way,
// also where residuals stay deferred from step to step.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <ostream>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "proto/wire/messages.h"
#include "runtime/engine/exchange/units.h"
#include "tests/engine/memories.h"
#include "tests/engine/plans.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;
using Vector = std::vector<float>;

std::vector<wire::PlanRow> Rows() {
  std::vector<wire::PlanRow> rows;
  for (const uint32_t block : {0u, 1024u}) {
    rows.push_back(Compressed(wire::Codec::kOneBit));
    rows.back().params.block = block;
  }
  for (const uint32_t bits : {1u, 4u, 7u, 8u}) {
    rows.push_back(Compressed(wire::Codec::kQuantize));
    rows.back().params.bits = bits;
  }
  rows.back().params.block = 1u << 20;  // larger than a piece
  rows.push_back(Compressed(wire::Codec::kFp16));
  return rows;
}

// A residual that is read elsewhere is written around the caches where it begins at a line of 64 bytes.
TEST(Pieces, BeginAtLinesWhereResidualsChangePlaces) {
  size_t found = 0;
  for (const wire::PlanRow& row : Rows()) {
    Tensor tensor;
    tensor.elements = 40'000'000;
    tensor.SetRow(row);
    if (!tensor.codec->ReadsBefore(row.params)) continue;
    EXPECT_EQ(tensor.PieceElements(row.params) * sizeof(float) % 64, 0u) << wire::RowText(row);
    ++found;
  }
  EXPECT_GT(found, 1u);
}

TEST(Units, HaveEveryElementOnceInOrder) {
  for (const wire::PlanRow& row : Rows()) {
    for (const int ranks : {1, 2, 3, 8}) {
      SCOPED_TRACE(absl::StrCat(wire::RowText(row), ", ", ranks, " ranks"));
      const std::vector<size_t> sizes = {7, 3'000'001, 100, 5000, 1, 400'000, 64};
      std::vector<Tensor> tensors(sizes.size());
      std::vector<UnitItem> items;
      for (size_t i = 0; i < sizes.size(); ++i) {
        tensors[i].elements = sizes[i];
        tensors[i].SetRow(row);
        items.push_back({&tensors[i], &row.params});
      }
      const Units units(items, ranks);
      std::vector<std::vector<size_t>> next(sizes.size());  // element, by item and rank
      for (size_t i = 0; i < sizes.size(); ++i) {
        for (int r = 0; r < ranks; ++r) next[i].push_back(tensors[i].ShardOf(row.params, r, ranks).begin);
      }
      size_t item = 0;
      size_t parts = 0;
      for (size_t u = 0; u < units.size(); ++u) {
        std::vector<size_t> bytes(static_cast<size_t>(ranks));
        EXPECT_EQ(units.FirstPart(u), parts);
        EXPECT_GE(units.Needs(u), u);
        EXPECT_LT(units.Needs(u), units.size());
        for (const Part& part : units.PartsOf(u)) {
          ASSERT_TRUE(part.item == item || part.item == item + 1) << "tensor after tensor";
          item = part.item;
          ++parts;
          const Tensor& tensor = tensors[item];
          for (int r = 0; r < ranks; ++r) {
            const Shard piece = tensor.PieceOf(row.params, r, ranks, part.piece);
            EXPECT_EQ(piece.begin, next[item][static_cast<size_t>(r)]);
            next[item][static_cast<size_t>(r)] = piece.end;
            bytes[static_cast<size_t>(r)] +=
                wire::kFrameHeaderBytes + tensor.codec->MaxPayloadBytes(row.params, piece.end - piece.begin);
          }
        }
        for (int r = 0; r < ranks; ++r) EXPECT_GE(units.Capacity(u, r), bytes[static_cast<size_t>(r)]);
        EXPECT_TRUE(units.PartsOf(u).size() == 1 || units.Capacity(u, 0) <= wire::kMostMessageBytes);
      }
      EXPECT_EQ(parts, units.parts());
      for (size_t i = 0; i < sizes.size(); ++i) {
        for (int r = 0; r < ranks; ++r) {
          EXPECT_EQ(next[i][static_cast<size_t>(r)], tensors[i].ShardOf(row.params, r, ranks).end);
        }
      }
    }
  }
}

TEST(Units, CutLargeTensorsAndFuseSmallOnes) {
  const wire::PlanRow row = Compressed(wire::Codec::kQuantize);  // 4 bits: about half a byte an element
  std::vector<Tensor> tensors(201);
  std::vector<UnitItem> items;
  for (Tensor& tensor : tensors) {
    tensor.elements = items.empty() ? 4'000'000 : 1000;
    tensor.SetRow(row);
    items.push_back({&tensor, &row.params});
  }
  const Units units(items, 4);
  EXPECT_NEAR(static_cast<double>(units.size()), 500e3 / wire::kPieceBytes + 200 * 180.0 / wire::kPieceBytes,
              2);
  EXPECT_GT(units.PartsOf(units.size() - 1).size(), 50u);
}

constexpr size_t kBig = 1'300'003;
constexpr int kRanks = 3;
constexpr int kSteps = 4;

struct Case {
  std::string name;
  Settings settings;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

Vector Gradient(int rank, int step, size_t n) {
  std::mt19937 random(static_cast<uint32_t>(1000 * step + rank));
  std::normal_distribution<float> normal;
  Vector g(n);
  for (float& x : g) x = normal(random);
  return g;
}

class Pieces : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Codecs, Pieces,
    ::testing::Values(
        Case{"onebit", {{"compressor", "onebit"}}},
        Case{"onebit_l1_blocks",
             {{"compressor", "onebit"}, {"onebit.block", "1024"}, {"onebit.scale", "l1"}}},
        Case{"quantize", {{"compressor", "quantize"}}},
        Case{"quantize_stochastic",
             {{"compressor", "quantize"}, {"quantize.bits", "8"}, {"quantize.rounding", "stochastic"}}},
        Case{"fp16", {{"compressor", "fp16"}}}),
    [](const auto& instance) { return instance.param.name; });

// What was delivered and what waits make up what was submitted; steps are applied, skipped and clipped, the
// gradient of one holds an infinity in its last element, and in the odd ones tensors are exchanged in place
// and the large one by itself.
TEST_P(Pieces, LoseNothing) {
  const wire::Config config = TestConfig(GetParam().settings);
  const std::string path = absl::StrCat(::testing::TempDir(), "/terse_pieces_", getpid());
  const std::vector<double> applied = {1.0, 0.0, 0.5, 1.0};
  constexpr int kBroken = 3;
  std::vector<std::vector<double>> balance(kRanks, std::vector<double>(kBig));  // submitted - delivered
  std::vector<Vector> results(kRanks);
  RunRanks(kRanks, config, [&](Engine& engine) {
    const auto rank = static_cast<size_t>(engine.rank());
    std::vector<Call> calls(3);
    std::vector<Vector> outs;
    for (const size_t n : {kBig, size_t{5000}, size_t{70'000}}) {
      const auto id = engine.Register(absl::StrCat("w", n), wire::DType::kFloat32, {static_cast<int64_t>(n)});
      ASSERT_TRUE(id.ok()) << id.status();
      outs.emplace_back(n);
    }
    for (int step = 0; step < kSteps; ++step) {
      std::vector<Vector> gradients;
      for (uint32_t t = 0; t < 3; ++t) {
        gradients.push_back(Gradient(engine.rank(), step, outs[t].size()));
        if (step == kBroken && rank == 1 && t == 0) {
          gradients[t].back() = std::numeric_limits<float>::infinity();
        }
        if (step % 2 == 1) outs[t] = gradients[t];
        calls[t] = {.tensor = t,
                    .send = step % 2 == 1 ? outs[t].data() : gradients[t].data(),
                    .recv = outs[t].data()};
      }
      const size_t together = step % 2 == 1 ? 1 : calls.size();
      absl::Status status = engine.Allreduce(absl::MakeConstSpan(calls).first(together));
      ASSERT_TRUE(status.ok()) << status;
      if (together < calls.size()) {
        status = engine.Allreduce(absl::MakeConstSpan(calls).subspan(together));
        ASSERT_TRUE(status.ok()) << status;
      }
      status = engine.Step(applied[static_cast<size_t>(step)]);
      ASSERT_TRUE(status.ok()) << status;
      const bool broken = step == kBroken;
      for (size_t i = 0; i < kBig; ++i) {
        ASSERT_EQ(std::isnan(outs[0][i]), broken) << "withheld whole on every rank, or not at all";
        balance[rank][i] += std::isfinite(gradients[0][i]) ? double{gradients[0][i]} / kRanks : 0.0;
        if (!broken && rank == 0) balance[0][i] -= applied[static_cast<size_t>(step)] * double{outs[0][i]};
      }
      for (const uint32_t t : {1u, 2u}) {
        for (const float x : outs[t]) ASSERT_TRUE(std::isfinite(x)) << "the other tensors are as they were";
      }
      results[rank].insert(results[rank].end(), outs[0].begin(), outs[0].end());
    }
    const absl::Status status = engine.SaveState(path);
    ASSERT_TRUE(status.ok()) << status;
  });
  for (const Vector& result : results) {
    ASSERT_EQ(std::memcmp(result.data(), results[0].data(), result.size() * sizeof(float)), 0);
  }
  double norms = 0;
  const Memories memories = ReadMemories(path, 1.0 / kRanks, &norms);
  std::vector<double> difference = memories.at("pending");
  for (size_t i = 0; i < kBig; ++i) {
    for (const std::vector<double>& rank : balance) difference[i] -= rank[i];
  }
  EXPECT_GT(norms, 0.0);
  EXPECT_LT(Norm(difference), kSteps * std::ldexp(Norm(balance[0]) + norms, -22));
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace terse::engine
