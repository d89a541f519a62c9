// SPDX-License-Identifier: Apache-2.0
//
// Settings in a word: what is written is what is read, and what is none is refused.
#include "runtime/controller/policy/setting.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "runtime/controller/policy/candidates.h"

namespace terse::policy {
namespace {

using ::testing::HasSubstr;

constexpr int kRanks = 4;

wire::Config ConfigOf(const std::vector<std::pair<std::string, std::string>>& keys = {}) {
  wire::Settings settings;
  for (const auto& [key, value] : keys)
    EXPECT_TRUE(settings.Set(key, value, wire::Origin::kFlag).ok()) << key;
  return settings.config();
}

TensorInfo Matrix(const std::string& name = "w") {
  return {
      .id = 3, .name = name, .dtype = wire::DType::kFloat32, .elements = 512 * 1024, .shape = {512, 1024}};
}

std::string Refusal(const absl::StatusOr<wire::PlanRow>& row) {
  EXPECT_EQ(row.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(row.status().message());
}

TEST(Setting, EveryCandidateIsItsWord) {
  for (const char* codec : {"quantize", "topk", "powersgd", "onebit", "fp16"}) {
    const wire::Config config = ConfigOf(
        {{"compressor", codec}, {"topk.density", "0.013"}, {"policy.families", "bf16, quantize, topk"}});
    for (const Candidate& candidate : CandidatesOf(config, kRanks, Matrix()).all) {
      const std::string word = SettingWord(candidate.row);
      const auto row = RowOf(config, kRanks, Matrix(), word);
      ASSERT_TRUE(row.ok()) << row.status();
      EXPECT_EQ(wire::RowText(*row), wire::RowText(candidate.row));
      EXPECT_EQ(row->tensor, 3u);
      EXPECT_EQ(SettingWord(*row), word);
    }
  }
}

TEST(Setting, Words) {
  const auto word = [](const std::string& asked) {
    const auto row = RowOf(ConfigOf(), kRanks, Matrix(), asked);
    return row.ok() ? SettingWord(*row) : std::string(row.status().message());
  };
  EXPECT_EQ(word("none"), "none");
  EXPECT_EQ(word("quantize"), "quantize:4") << "the configured number";
  EXPECT_EQ(word("quantize:2"), "quantize:2");
  EXPECT_EQ(word("topk:0.1"), "topk:0.1");
  EXPECT_EQ(word("powersgd:16"), "powersgd:16");
  EXPECT_EQ(word("bf16"), "bf16");
}

TEST(Setting, SaysWhatItIs) {
  wire::PlanRow row;
  EXPECT_EQ(SettingText(row), "dense");
  row.codec = wire::Codec::kQuantize;
  EXPECT_EQ(SettingText(row), "quantize, 4 bits");
  row.codec = wire::Codec::kTopK;
  EXPECT_EQ(SettingText(row), "topk, density 0.01");
  row.codec = wire::Codec::kPowerSgd;
  EXPECT_EQ(SettingText(row), "powersgd, rank 4");
  row.codec = wire::Codec::kOneBit;
  EXPECT_EQ(SettingText(row), "onebit");
}

TEST(Setting, WhatIsNoneIsRefusedWithTheReason) {
  const wire::Config config = ConfigOf();
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "zip")), HasSubstr("no setting begins with 'zip'"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "")), HasSubstr("no setting begins with ''"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "fp16:2")), HasSubstr("fp16 has no number"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "none:0")), HasSubstr("none has no number"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "quantize:9")), HasSubstr("1 to 8"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "quantize:")), HasSubstr("'quantize:'"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "topk:nan")), HasSubstr("0 < x <= 1"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix("a.bias"), "topk:0.1")),
              HasSubstr("stays dense: excluded"));
  TensorInfo small = Matrix();
  small.elements = 10;
  small.shape = {10};
  EXPECT_THAT(Refusal(RowOf(config, kRanks, small, "topk:0.1")), HasSubstr("below min_elements"));
  EXPECT_THAT(
      Refusal(RowOf(
          ConfigOf({{"quantize.rounding", "stochastic"}, {"quantize.span", "l2"}, {"quantize.bits", "8"}}),
          kRanks, Matrix(), "quantize:2")),
      HasSubstr("error feedback"));
}

TEST(Setting, AMethodOfItsOwnHasOne) {
  const wire::Config config = ConfigOf({{"method", "dgc"}});
  const auto row = RowOf(config, kRanks, Matrix(), "topk:0.001");
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_TRUE(RowOf(config, kRanks, Matrix(), "none").ok());
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "topk:0.01")), HasSubstr("method dgc has one setting"));
  EXPECT_THAT(Refusal(RowOf(config, kRanks, Matrix(), "quantize:4")),
              HasSubstr("method dgc has one setting"));
}

}  // namespace
}  // namespace terse::policy
