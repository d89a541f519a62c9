// SPDX-License-Identifier: Apache-2.0
//
// Saved state that another number of ranks loads: what waits in the memories is kept, everything else is as
// it was, and training goes on. And plans that a policy made, which outlive the group that ran them.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <mutex>
#include <ostream>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "runtime/engine/state_files.h"
#include "tests/engine/memories.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

namespace fs = std::filesystem;

// No multiple of any number of ranks or block.
constexpr int64_t kRows = 37;
constexpr int64_t kColumns = 29;
constexpr size_t kN = kRows * kColumns;

using Settings = std::vector<std::pair<std::string, std::string>>;

struct Case {
  std::string name;
  Settings settings;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<Case> Cases() {
  const auto adam = [](const char* freeze) {
    return Settings{{"method", "onebit_adam"}, {"compressor", "onebit"}, {"adam.freeze", freeze}};
  };
  const Settings dgc = {{"method", "dgc"}, {"compressor", "topk"}, {"dgc.density", "0.03"}};
  Settings nesterov = dgc;
  nesterov.emplace_back("dgc.nesterov", "true");
  Settings warmup = dgc;
  warmup.insert(warmup.end(), {{"dgc.warmup_steps", "20"}, {"dgc.warmup_density", "[0.5, 0.1]"}});
  return {
      {"none", {{"compressor", "none"}}},
      {"fp16", {{"compressor", "fp16"}}},
      {"bf16", {{"compressor", "bf16"}}},
      {"topk", {{"compressor", "topk"}, {"topk.density", "0.05"}}},
      {"topk_sparse", {{"compressor", "topk"}, {"topk.density", "0.05"}, {"topk.exchange", "sparse_reduce"}}},
      {"onebit", {{"compressor", "onebit"}}},
      {"onebit_blocks", {{"compressor", "onebit"}, {"onebit.block", "64"}}},
      {"quantize", {{"compressor", "quantize"}}},
      {"quantize_stochastic", {{"compressor", "quantize"}, {"quantize.rounding", "stochastic"}}},
      {"quantize_sum", {{"compressor", "quantize"}, {"reduce", "sum"}}},
      {"powersgd", {{"compressor", "powersgd"}, {"powersgd.rank", "2"}}},
      {"dgc", dgc},
      {"dgc_nesterov", nesterov},
      {"dgc_warmup", warmup},
      {"adam_warmup", adam("1000")},
      {"adam_frozen", adam("4")},
      {"adam_auto", {{"method", "onebit_adam"}, {"compressor", "onebit"}, {"adam.beta2", "0.8"}}}};
}

std::vector<float> Noise(int rank, int step) {
  std::mt19937 random(static_cast<uint32_t>(1 + 31 * rank + 1009 * step));
  std::normal_distribution<float> normal;
  std::vector<float> out(kN);
  for (float& x : out) x = normal(random);
  return out;
}

void Train(Engine& engine, int first, int steps, std::vector<float>* last = nullptr) {
  std::vector<float> out(kN);
  for (int step = first; step < first + steps; ++step) {
    const std::vector<float> gradient = Noise(engine.rank(), step);
    const absl::Status status =
        engine.Allreduce({{.tensor = 0, .send = gradient.data(), .recv = out.data()}});
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(engine.Step(step % 5 == 3 ? 0.0 : 1.0).ok());
  }
  if (last != nullptr) *last = out;
}

class Resized : public ::testing::TestWithParam<Case> {
 protected:
  Resized() { fs::remove_all(path_); }
  ~Resized() override { fs::remove_all(path_); }
  std::string Path(const std::string& name) const { return (path_ / name).string(); }

 private:
  const fs::path path_ = fs::path(::testing::TempDir()) / absl::StrCat("terse_resized_", getpid());
};
INSTANTIATE_TEST_SUITE_P(State, Resized, ::testing::ValuesIn(Cases()),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(Resized, KeepsWhatWaitsAndGoesOn) {
  const wire::Config config = TestConfig(GetParam().settings);
  const bool mean = config.reduce == wire::Reduce::kMean;
  const std::pair<int, int> sizes[] = {{4, 2}, {2, 3}, {3, 4}, {4, 1}, {1, 4}};
  for (const auto& [before, after] : sizes) {
    SCOPED_TRACE(absl::StrCat(before, " to ", after));
    const std::string old_path = Path(absl::StrCat("of_", before));
    const std::string new_path = Path(absl::StrCat("from_", before, "_of_", after));
    RunRanks(before, config, [&](Engine& engine) {
      ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
      Train(engine, 0, 9);
      const absl::Status status = engine.SaveState(old_path);
      ASSERT_TRUE(status.ok()) << status;
    });
    std::vector<std::vector<float>> results(static_cast<size_t>(after));
    RunRanks(after, config, [&, after = after](Engine& engine) {
      ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
      absl::Status status = engine.LoadState(old_path);
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(engine.step(), 7u) << "of 9 two were skipped";
      EXPECT_EQ(engine.row(0).codec == wire::Codec::kNone,
                after == 1 || config.compressor == wire::Codec::kNone);
      status = engine.SaveState(new_path);
      ASSERT_TRUE(status.ok()) << status;
      Train(engine, 9, 6, &results[static_cast<size_t>(engine.rank())]);
    });
    for (const std::vector<float>& result : results) {
      EXPECT_EQ(result, results[0]);
      for (const float x : result) ASSERT_TRUE(std::isfinite(x));
    }

    const Memories was = ReadMemories(old_path, mean ? 1.0 / before : 1.0);
    const Memories is = ReadMemories(new_path, mean ? 1.0 / after : 1.0);
    for (const auto& [name, values] : was) {
      // With one rank there are no codecs and so none of their states.
      if (name == "worker_state" && after == 1) continue;
      ASSERT_TRUE(is.contains(name)) << name;
      std::vector<double> difference = is.at(name);
      ASSERT_EQ(difference.size(), values.size()) << name;
      for (size_t i = 0; i < values.size(); ++i) difference[i] -= values[i];
      const bool waits = name == "pending" || name == "u";
      EXPECT_LE(Norm(difference), waits ? 1e-6 * Norm(values) : 0.0) << name;
    }
    if (before > 1 && GetParam().name != "none" && GetParam().name != "adam_warmup") {
      EXPECT_GT(Norm(was.at("pending")), 0) << "something waited";
    }
  }
}

// One rank goes dense: what waited comes out over the next steps, whole.
TEST(StateOfOneRank, DrainsWhatWaited) {
  for (const char* codec : {"onebit", "topk", "powersgd"}) {
    SCOPED_TRACE(codec);
    const std::string path = absl::StrCat(::testing::TempDir(), "/terse_drain_", getpid());
    const wire::Config config = TestConfig({{"compressor", codec}});
    RunRanks(4, config, [&](Engine& engine) {
      ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
      Train(engine, 0, 8);
      ASSERT_TRUE(engine.SaveState(path).ok());
    });
    const std::vector<double> pending = ReadMemories(path, 0.25).at("pending");
    RunRanks(1, config, [&](Engine& engine) {
      ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
      ASSERT_TRUE(engine.LoadState(path).ok());
      const std::vector<float> zeros(kN);
      std::vector<float> out(kN);
      std::vector<double> sum(kN);
      for (int step = 0; step < 1200; ++step) {
        ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = zeros.data(), .recv = out.data()}}).ok());
        ASSERT_TRUE(engine.Step(1.0).ok());
        for (size_t i = 0; i < kN; ++i) sum[i] += static_cast<double>(out[i]);
      }
      for (size_t i = 0; i < kN; ++i) ASSERT_NEAR(sum[i], pending[i], 1e-5 * Norm(pending)) << i;
    });
    fs::remove_all(path);
  }
}

// A frozen tensor of 1-bit Adam that goes dense hands on its worker errors: m gets the sum of all gradients,
// weighted as Adam weights them, whether they were compressed on the way or not.
TEST(StateOfOneRank, FrozenMomentumTakesTheWorkerErrorsIn) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/terse_frozen_", getpid());
  const wire::Config config = TestConfig(
      {{"method", "onebit_adam"}, {"compressor", "onebit"}, {"adam.freeze", "3"}, {"adam.beta1", "0.5"}});
  RunRanks(2, config, [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
    Train(engine, 0, 8);
    ASSERT_TRUE(engine.SaveState(path).ok());
  });
  const Memories before = ReadMemories(path, 0.5);
  RunRanks(1, config, [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
    ASSERT_TRUE(engine.LoadState(path).ok());
    const std::vector<float> zeros(kN);
    std::vector<float> out(kN);
    // What enters m in a step is m' - b1 m; over all steps it must be the pending error.
    std::vector<double> m = before.at("m");
    std::vector<double> entered(kN);
    for (int step = 0; step < 60; ++step) {
      ASSERT_TRUE(engine.Allreduce({{.tensor = 0, .send = zeros.data(), .recv = out.data()}}).ok());
      ASSERT_TRUE(engine.Step(1.0).ok());
      ASSERT_TRUE(engine.SaveState(path).ok());
      const Memories now = ReadMemories(path, 1.0);
      for (size_t i = 0; i < kN; ++i) entered[i] += now.at("m")[i] - 0.5 * m[i];
      m = now.at("m");
      if (!now.contains("pending")) break;
    }
    EXPECT_FALSE(ReadMemories(path, 1.0).contains("pending")) << "the error is gone";
    const std::vector<double>& pending = before.at("pending");
    for (size_t i = 0; i < kN; ++i) ASSERT_NEAR(entered[i], pending[i], 1e-5 * Norm(pending)) << i;
  });
  fs::remove_all(path);
}

wire::Plan QuantizePlan(uint32_t version, uint64_t step, uint32_t bits) {
  wire::PlanRow row;
  row.codec = wire::Codec::kQuantize;
  row.exchange = wire::Exchange::kScatterReduceAllGather;
  row.params.bits = bits;
  return {.version = version, .activation_step = step, .rows = {row}};
}

// What a policy chose stays while the configuration does; another configuration goes before it.
TEST(StateOfAPlan, OutlivesTheGroup) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/terse_plan_", getpid());
  std::vector<float> unbroken;
  RunRanks(2, TestConfig({{"compressor", "quantize"}}), [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
    Train(engine, 0, 4);
    ASSERT_TRUE(engine.Adopt(QuantizePlan(5, engine.step(), 3)).ok());
    Train(engine, 4, 4);
    ASSERT_TRUE(engine.SaveState(path).ok());
    std::vector<float> last;
    Train(engine, 8, 4, &last);
    if (engine.rank() == 0) unbroken = last;
  });
  RunRanks(2, TestConfig({{"compressor", "quantize"}}), [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
    ASSERT_TRUE(engine.LoadState(path).ok());
    EXPECT_EQ(engine.row(0).params.bits, 3u);
    std::vector<float> last;
    Train(engine, 8, 4, &last);
    EXPECT_EQ(last, unbroken);
    EXPECT_FALSE(engine.Adopt(QuantizePlan(5, engine.step(), 2)).ok()) << "version 5 has been";
    EXPECT_TRUE(engine.Adopt(QuantizePlan(6, engine.step(), 2)).ok());
  });
  RunRanks(2, TestConfig({{"compressor", "quantize"}, {"quantize.bits", "6"}}), [&](Engine& engine) {
    ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {kRows, kColumns}).ok());
    ASSERT_TRUE(engine.LoadState(path).ok());
    EXPECT_EQ(engine.row(0).params.bits, 6u);
    Train(engine, 8, 4);
  });
  fs::remove_all(path);
}

// Files that ranks must have alike and do not, though every checksum fits: only a defect makes them.
TEST(StateOfOtherSize, RanksThatDifferAreRefused) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/terse_differ_", getpid());
  const wire::Config config = TestConfig({{"method", "onebit_adam"}, {"compressor", "onebit"}});
  for (const bool differ : {false, true}) {
    fs::remove_all(path);
    ASSERT_TRUE(MakeSave(path, 1).ok());
    for (uint32_t rank = 0; rank < 2; ++rank) {
      auto file = StateFileWriter::Create(StateFilePath(path, 1, rank, 2));
      ASSERT_TRUE(file.ok()) << file.status();
      const std::string text = wire::AgreedText(config);
      ASSERT_TRUE((*file)
                      ->Append(wire::StateSection::kConfig,
                               {reinterpret_cast<const std::byte*>(text.data()), text.size()})
                      .ok());
      wire::StateGroup group;
      group.tensors = 1;
      ASSERT_TRUE((*file)->Append(wire::StateSection::kGroup, wire::EncodeStateGroup(group)).ok());
      wire::StateTensor tensor;
      tensor.name = "w";
      tensor.shape = {4};
      tensor.elements = 4;
      for (const char* name : {"m_updates", "variance_updates", "frozen", "draining", "own_warmup"}) {
        tensor.counters.push_back({.name = name, .value = 0});
      }
      const std::vector<float> m = {1, 2, 3, differ ? 4.0f + static_cast<float>(rank) : 4.0f};
      const wire::Bytes values(reinterpret_cast<const std::byte*>(m.data()), m.size() * sizeof(float));
      tensor.vectors.push_back(
          {.name = "m", .role = wire::MemoryRole::kReplicated, .begin = 0, .values = values, .crc = 0});
      ASSERT_TRUE((*file)->Append(wire::StateSection::kTensor, wire::EncodeStateTensor(tensor)).ok());
      wire::StateHeader header;
      header.rank = rank;
      header.world_size = 2;
      header.save = 1;
      header.save_id = 9;
      ASSERT_TRUE((*file)->Seal(header).ok());
      ASSERT_TRUE((*file)->Publish().ok());
    }
    RunRanks(1, config, [&](Engine& engine) {
      ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {4}).ok());
      const absl::Status status = engine.LoadState(path);
      EXPECT_EQ(status.ok(), !differ) << status;
      if (differ) {
        EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
        EXPECT_THAT(
            std::string(status.message()),
            ::testing::HasSubstr("rank-1-of-2.terse: tensor 'w': 'm', which all ranks must have alike"));
      }
    });
  }
  fs::remove_all(path);
}

}  // namespace
}  // namespace terse::engine
