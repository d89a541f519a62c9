// SPDX-License-Identifier: Apache-2.0
//
// The cost model fitted to measurements, and plans that make time small.
#include "runtime/controller/policy/calibration.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "runtime/controller/policy/adaptive_policy.h"
#include "runtime/controller/policy/setting.h"

namespace terse::policy {
namespace {

using ::testing::HasSubstr;

constexpr int kRanks = 4;

wire::Config ConfigOf(const std::vector<std::pair<std::string, std::string>>& keys = {}) {
  wire::Settings settings;
  EXPECT_TRUE(settings.Set("policy.name", "lgreco", wire::Origin::kFile).ok());
  for (const auto& [key, value] : keys)
    EXPECT_TRUE(settings.Set(key, value, wire::Origin::kFlag).ok()) << key;
  return settings.config();
}

std::vector<TensorInfo> Matrices(const std::vector<int64_t>& rows) {
  std::vector<TensorInfo> tensors;
  for (const int64_t n : rows) {
    TensorInfo tensor{.id = static_cast<uint32_t>(tensors.size()),
                      .name = "w" + std::to_string(tensors.size()),
                      .elements = static_cast<uint64_t>(n) * 1024,
                      .shape = {n, 1024}};
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

std::vector<wire::PlanRow> Rows(const wire::Config& config, const std::vector<TensorInfo>& tensors) {
  std::vector<wire::PlanRow> rows;
  for (const TensorInfo& tensor : tensors) rows.push_back(StaticRow(config, kRanks, tensor));
  return rows;
}

// What a machine would measure.
std::vector<ExchangeTimes> Measured(const Machine& machine, const std::vector<TensorInfo>& tensors,
                                    const std::vector<wire::PlanRow>& rows) {
  Machine wire = machine;
  wire.memcpy_bytes_per_s = HUGE_VAL;
  wire.message_s = wire.entry_s = 0;
  Machine processor = machine;
  processor.bytes_per_s = HUGE_VAL;
  processor.latency_s = 0;
  std::vector<ExchangeTimes> times;
  for (size_t t = 0; t < tensors.size(); ++t) {
    times.push_back({.wire_ms = 1e3 * CostOf(rows[t], wire, kRanks, tensors[t]).seconds,
                     .codec_ms = 1e3 * CostOf(rows[t], processor, kRanks, tensors[t]).seconds});
  }
  return times;
}

TEST(Calibration, FindsTheMachineThatWasMeasured) {
  const std::vector<TensorInfo> tensors = Matrices({4, 16, 64, 512, 2048});
  for (const char* codec : {"quantize", "topk", "powersgd", "onebit", "none"}) {
    SCOPED_TRACE(codec);
    const wire::Config config = ConfigOf({{"compressor", codec}});
    Machine machine;
    machine.bytes_per_s = 1.25e9;
    machine.latency_s = 200e-6;
    machine.memcpy_bytes_per_s /= 3;
    machine.message_s *= 3;
    machine.entry_s *= 3;
    const std::vector<wire::PlanRow> rows = Rows(config, tensors);
    const Machine found = Calibrated(config, kRanks, tensors, rows, Measured(machine, tensors, rows));
    EXPECT_NEAR(found.bytes_per_s / machine.bytes_per_s, 1, 1e-6);
    EXPECT_NEAR(found.latency_s / machine.latency_s, 1, 1e-6);
    EXPECT_NEAR(found.memcpy_bytes_per_s / machine.memcpy_bytes_per_s, 1, 1e-6);
  }
}

TEST(Calibration, WithoutMeasurementsItIsTheConfiguredNetwork) {
  const std::vector<TensorInfo> tensors = Matrices({64, 64});
  const wire::Config config = ConfigOf({{"network.gbit", "8"}, {"network.latency_us", "10"}});
  const std::vector<wire::PlanRow> rows = Rows(config, tensors);
  const Machine found = Calibrated(config, kRanks, tensors, rows, std::vector<ExchangeTimes>(2));
  EXPECT_EQ(found.bytes_per_s, 1e9);
  EXPECT_DOUBLE_EQ(found.latency_s, 10e-6);
  EXPECT_EQ(found.memcpy_bytes_per_s, Machine().memcpy_bytes_per_s);
}

TEST(Calibration, TensorsThatAreAlikeGiveTheRateAlone) {
  const std::vector<TensorInfo> tensors = Matrices({512, 512, 512});
  const wire::Config config = ConfigOf({{"network.latency_us", "100"}});
  const std::vector<wire::PlanRow> rows = Rows(config, tensors);
  Machine machine;
  machine.bytes_per_s = 5e8;
  machine.latency_s = 100e-6;
  const Machine found = Calibrated(config, kRanks, tensors, rows, Measured(machine, tensors, rows));
  EXPECT_NEAR(found.bytes_per_s / machine.bytes_per_s, 1, 1e-6);
  EXPECT_DOUBLE_EQ(found.latency_s, 100e-6);
}

// Whatever is measured, what comes out is a machine.
TEST(Calibration, MeasurementsThatFitNoMachineStillGiveOne) {
  const std::vector<TensorInfo> tensors = Matrices({4, 64, 2048});
  const wire::Config config = ConfigOf();
  const std::vector<wire::PlanRow> rows = Rows(config, tensors);
  for (const std::vector<double>& wire : std::vector<std::vector<double>>{
           {100, 10, 1}, {1e-9, 1e-9, 1e9}, {5, 5, 5}, {0, 0, 1e-12}, {1e300, 1, 1}, {1, 1e-300, 1}}) {
    std::vector<ExchangeTimes> times;
    for (const double ms : wire) times.push_back({.wire_ms = ms, .codec_ms = ms});
    const Machine found = Calibrated(config, kRanks, tensors, rows, times);
    EXPECT_GT(found.bytes_per_s, 0);
    EXPECT_GE(found.latency_s, 0);
    EXPECT_TRUE(std::isfinite(found.latency_s));
    EXPECT_TRUE(std::isfinite(found.memcpy_bytes_per_s) && found.memcpy_bytes_per_s > 0);
  }
}

// Gradients alike; what is ready early hides behind the backward pass, and only the last one is waited for.
std::vector<TensorStatistics> StatisticsOf(const AdaptivePolicy& policy,
                                           const std::vector<TensorInfo>& tensors,
                                           const std::vector<double>& ready_ms) {
  std::vector<TensorStatistics> all;
  for (size_t t = 0; t < tensors.size(); ++t) {
    TensorStatistics statistics;
    for (const Candidate& candidate : policy.candidates()[t].all) {
      const double levels = std::pow(2.0, candidate.row.params.bits) - 1;
      const bool dense = candidate.row.codec == wire::Codec::kNone;
      statistics.squared_error.push_back(
          dense ? 0 : static_cast<double>(tensors[t].elements) * 3 / (levels * levels));
    }
    statistics.norm = 1;
    statistics.ready_ms = ready_ms[t];
    all.push_back(std::move(statistics));
  }
  return all;
}

TEST(TimeObjective, SpendsErrorWhereSomebodyWaits) {
  const std::vector<TensorInfo> tensors = Matrices({1024, 1024, 1024, 1024});
  const std::vector<double> ready = {10, 60, 110, 160};
  AdaptivePolicy by_time(ConfigOf({{"policy.objective", "time"}, {"policy.gain", "0"}}), kRanks, tensors);
  const auto outcome = by_time.Step(StatisticsOf(by_time, tensors, ready));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->changed);
  EXPECT_LT(outcome->finish_ms, outcome->uniform_finish_ms);
  EXPECT_GT(outcome->finish_ms, 160);
  EXPECT_LE(outcome->error, outcome->budget);
  EXPECT_LE(outcome->lower_bound, outcome->finish_ms * (1 + 1e-9));
  EXPECT_THAT(outcome->why, HasSubstr("lgreco: done after "));
  const std::vector<wire::PlanRow>& rows = by_time.rows();
  EXPECT_LT(rows[3].params.bits, 4u) << "the last one is waited for";
  for (int t = 0; t < 3; ++t)
    EXPECT_GE(rows[static_cast<size_t>(t)].params.bits, 4u) << SettingWord(rows[static_cast<size_t>(t)]);

  // By bytes all of them are alike.
  AdaptivePolicy by_bytes(ConfigOf({{"policy.gain", "0"}}), kRanks, tensors);
  ASSERT_TRUE(by_bytes.Step(StatisticsOf(by_bytes, tensors, ready)).ok());
  EXPECT_GE(by_bytes.rows()[3].params.bits, 3u);
}

TEST(TimeObjective, TensorsThatAreNotChosenForTakeTheirTime) {
  std::vector<TensorInfo> tensors = Matrices({1024, 1024});
  const std::vector<double> ready = {0, 0};
  const auto finish = [&](bool exclude) {
    AdaptivePolicy policy(ConfigOf({{"policy.objective", "time"}, {"exclude", exclude ? "w0" : "[]"}}),
                          kRanks, tensors);
    const auto outcome = policy.Step(StatisticsOf(policy, tensors, ready));
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    return outcome.ok() ? outcome->finish_ms : 0;
  };
  EXPECT_GT(finish(true), 2 * finish(false)) << "one of them is dense";
}

TEST(TimeObjective, TimesThatAreNoneAreRefused) {
  const std::vector<TensorInfo> tensors = Matrices({1024, 1024});
  AdaptivePolicy policy(ConfigOf({{"policy.objective", "time"}}), kRanks, tensors);
  for (const double number : {std::nan(""), -1.0, HUGE_VAL}) {
    auto statistics = StatisticsOf(policy, tensors, {1, 2});
    statistics[1].times.wire_ms = number;
    EXPECT_THAT(std::string(policy.Step(statistics).status().message()), HasSubstr("tensor 1: a time is"));
    statistics = StatisticsOf(policy, tensors, {1, number});
    EXPECT_THAT(std::string(policy.Step(statistics).status().message()), HasSubstr("tensor 1: a time is"));
  }
}

}  // namespace
}  // namespace terse::policy
