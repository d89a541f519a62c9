// SPDX-License-Identifier: Apache-2.0
//
// The policies that decide while a job trains, on statistics that are written down here.
#include "runtime/controller/policy/adaptive_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"

namespace terse::policy {
namespace {

using ::testing::HasSubstr;

constexpr int kRanks = 4;

wire::Config ConfigOf(const std::vector<std::pair<std::string, std::string>>& keys = {}) {
  wire::Settings settings;
  EXPECT_TRUE(settings.Set("policy.name", "lgreco", wire::Origin::kFile).ok());
  for (const auto& [key, value] : keys) {
    EXPECT_TRUE(settings.Set(key, value, wire::Origin::kFlag).ok()) << key;
  }
  return settings.config();
}

// A small one that goes dense, and layers of a network.
std::vector<TensorInfo> Layers() {
  const std::vector<std::vector<int64_t>> shapes = {{64}, {64, 64}, {256, 128}, {512, 1024}, {2048, 512}};
  std::vector<TensorInfo> tensors;
  for (const auto& shape : shapes) {
    TensorInfo tensor;
    tensor.id = static_cast<uint32_t>(tensors.size());
    tensor.name = "layer" + std::to_string(tensor.id);
    tensor.shape = shape;
    tensor.elements = 1;
    for (const int64_t n : shape) tensor.elements *= static_cast<uint64_t>(n);
    tensors.push_back(tensor);
  }
  return tensors;
}

// What normal elements of a scale leave behind, roughly; twice the bytes, a quarter of the error or less.
TensorStatistics StatisticsOf(const TensorInfo& tensor, const Candidates& candidates, double scale) {
  TensorStatistics statistics;
  const double all = static_cast<double>(tensor.elements) * scale * scale;
  for (const Candidate& candidate : candidates.all) {
    double part = 0;
    switch (candidate.row.codec) {
      case wire::Codec::kQuantize:
        part = 3.0 / std::pow(std::pow(2.0, candidate.row.params.bits) - 1, 2);
        break;
      case wire::Codec::kTopK:
        part = 1 - 6 * candidate.row.params.density;
        break;
      case wire::Codec::kPowerSgd:
        part = 1 / (1.0 + 0.2 * candidate.row.params.rank);
        break;
      default:
        break;
    }
    statistics.squared_error.push_back(all * std::max(0.0, part));
  }
  statistics.norm = std::sqrt(all);
  return statistics;
}

std::vector<TensorStatistics> StatisticsOf(const AdaptivePolicy& policy, const std::vector<double>& scales) {
  const std::vector<TensorInfo> tensors = Layers();
  std::vector<TensorStatistics> statistics;
  for (size_t t = 0; t < tensors.size(); ++t) {
    statistics.push_back(StatisticsOf(tensors[t], policy.candidates()[t], scales[t]));
  }
  return statistics;
}

const std::vector<double> kScales = {1, 8, 4, 1, 0.25};

TEST(Candidates, AreAroundTheConfiguredSettingAndCheaperThanDense) {
  const std::vector<TensorInfo> tensors = Layers();
  for (const auto& [codec, count] :
       {std::pair("quantize", 1 + 7), std::pair("topk", 1 + 13), std::pair("powersgd", 1 + 7)}) {
    const Candidates its = CandidatesOf(ConfigOf({{"compressor", codec}}), kRanks, tensors[4]);
    EXPECT_EQ(its.all.size(), static_cast<size_t>(count)) << codec;
    EXPECT_EQ(its.all[0].row.codec, wire::Codec::kNone);
    for (size_t i = 2; i < its.all.size(); ++i) EXPECT_GT(its.all[i].bytes, its.all[i - 1].bytes);
    for (size_t i = 1; i < its.all.size(); ++i) EXPECT_LT(its.all[i].bytes, its.all[0].bytes);
    const wire::PlanRow uniform = StaticRow(ConfigOf({{"compressor", codec}}), kRanks, tensors[4]);
    EXPECT_EQ(its.all[its.uniform].row, uniform);
    EXPECT_NEAR(its.all[its.strong].bytes / its.all[its.uniform].bytes, 0.5, 0.08) << codec;
    EXPECT_NEAR(its.all[its.mild].bytes / its.all[its.uniform].bytes, 2, 0.3) << codec;
  }
  EXPECT_TRUE(CandidatesOf(ConfigOf(), kRanks, tensors[0]).Fixed()) << "below min_elements";
  const Candidates mixed =
      CandidatesOf(ConfigOf({{"policy.families", "topk, powersgd, quantize"}}), kRanks, tensors[4]);
  EXPECT_EQ(mixed.all.size(), 1u + 7 + 13 + 7);
  size_t k = 0;
  for (const Family& family : FamiliesOf(mixed)) {
    for (const wire::CodecParams& params : family.settings) {
      EXPECT_EQ(family.codec, mixed.all[k].row.codec);
      EXPECT_EQ(params, mixed.all[k++].row.params);
    }
  }
  EXPECT_EQ(k, mixed.all.size());
  EXPECT_EQ(FamiliesOf(mixed).size(), 4u);
  // Factors of 64 x 64 at rank 32 and beyond would be no smaller.
  const Candidates small =
      CandidatesOf(ConfigOf({{"compressor", "powersgd"}, {"powersgd.rank", "24"}}), kRanks, tensors[1]);
  for (const Candidate& candidate : small.all)
    EXPECT_LT(candidate.row.codec == wire::Codec::kNone ? 0 : candidate.row.params.rank, 32u);
}

TEST(AdaptivePolicy, LgrecoSendsLessForTheSameError) {
  for (const auto& codec : {"quantize", "topk", "powersgd"}) {
    for (const char* error : {"l2", "squared", "relative", "adam"}) {
      AdaptivePolicy policy(ConfigOf({{"compressor", codec}, {"policy.error", error}}), kRanks, Layers());
      const auto statistics = StatisticsOf(policy, kScales);
      const auto outcome = policy.Step(statistics);
      ASSERT_TRUE(outcome.ok()) << outcome.status();
      EXPECT_LE(outcome->error, outcome->budget) << codec;
      EXPECT_LE(outcome->bytes, outcome->uniform_bytes) << codec;
      EXPECT_LE(outcome->lower_bound, outcome->bytes) << codec;
      if (!outcome->changed) continue;
      EXPECT_THAT(outcome->why, HasSubstr("lgreco: "));
      EXPECT_THAT(policy.rows()[4].reason, HasSubstr("lgreco: "));
      EXPECT_THAT(policy.rows()[0].reason, HasSubstr("below min_elements"));
      // The same again is no change.
      const std::vector<wire::PlanRow> rows = policy.rows();
      const auto again = policy.Step(statistics);
      ASSERT_TRUE(again.ok());
      EXPECT_FALSE(again->changed);
      EXPECT_THAT(again->why, HasSubstr("would gain less than 2 %"));
      EXPECT_EQ(policy.rows(), rows);
    }
  }
}

TEST(AdaptivePolicy, LargeLayersOfSmallGradientsGetFewerBits) {
  AdaptivePolicy policy(ConfigOf(), kRanks, Layers());
  const auto outcome = policy.Step(StatisticsOf(policy, kScales));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_TRUE(outcome->changed);
  EXPECT_LT(policy.rows()[4].params.bits, policy.rows()[1].params.bits);
  EXPECT_LT(outcome->bytes, 0.98 * outcome->uniform_bytes);
}

// The scale of a tensor's gradient says nothing: every element counts for what it is to its tensor. Where all
// tensors are alike in this, equal bits are best.
TEST(AdaptivePolicy, RelativeErrorsDoNotAskForScales) {
  AdaptivePolicy one(ConfigOf({{"policy.error", "relative"}}), kRanks, Layers());
  AdaptivePolicy other(ConfigOf({{"policy.error", "relative"}}), kRanks, Layers());
  std::vector<TensorStatistics> statistics = StatisticsOf(one, kScales);
  std::vector<TensorStatistics> scaled = StatisticsOf(one, {1, 1e-6, 3e4, 1, 1e12});
  const auto alike = one.Step(statistics);
  ASSERT_TRUE(alike.ok());
  EXPECT_FALSE(alike->changed) << alike->why;

  // One that is easy pays for the others, however small it is.
  for (std::vector<TensorStatistics>* const those : {&statistics, &scaled}) {
    for (double& error : (*those)[4].squared_error) error /= 200;
  }
  const auto first = one.Step(statistics);
  const auto second = other.Step(scaled);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(first->changed);
  EXPECT_LT(one.rows()[4].params.bits, 4u);
  EXPECT_EQ(one.choice(), other.choice());
  EXPECT_NEAR(first->error, second->error, 1e-9 * first->error);
  EXPECT_LE(first->error, first->budget);
}

// By hand: of two tensors n e^2 / |g|^2, and what that costs Adam, sqrt(n) e^2 / |g|.
double BudgetOfTwo(const char* metric) {
  AdaptivePolicy policy(ConfigOf({{"policy.error", metric}, {"policy.alpha", "0.5"}}), kRanks, Layers());
  std::vector<TensorStatistics> statistics = StatisticsOf(policy, kScales);
  statistics[3].squared_error.clear();
  statistics[4].squared_error.clear();
  for (double& error : statistics[1].squared_error) error = error > 0 ? 6 : 0;  // dense has none
  for (double& error : statistics[2].squared_error) error = error > 0 ? 10 : 0;
  statistics[1].norm = 2;
  statistics[2].norm = 4;
  const auto outcome = policy.Step(statistics);
  EXPECT_TRUE(outcome.ok());
  return outcome.ok() ? outcome->budget : 0.0;
}

TEST(AdaptivePolicy, RelativeErrorsAreOfTheMeanSquare) {
  EXPECT_DOUBLE_EQ(BudgetOfTwo("relative"), 0.25 * (6.0 / 4 * 64 * 64 + 10.0 / 16 * 256 * 128));
  EXPECT_DOUBLE_EQ(BudgetOfTwo("adam"), 0.25 * (6.0 / 2 * 64 + 10.0 / 4 * std::sqrt(256.0 * 128)));
}

// Of tensors that differ in their scale alone Adam's progress is the sum of |g|_1: what is left of the
// smaller ones costs less than under `relative`, which makes all alike, and more than under `squared`.
TEST(AdaptivePolicy, WhatErrorsCostAdamIsBetweenSquaresAndRelativeOnes) {
  uint32_t spread[3] = {};
  for (size_t i = 0; i < 3; ++i) {
    const char* const metric[] = {"squared", "adam", "relative"};
    AdaptivePolicy policy(ConfigOf({{"policy.error", metric[i]}, {"policy.gain", "0"}}), kRanks, Layers());
    std::vector<TensorStatistics> statistics = StatisticsOf(policy, {1, 100, 1, 1, 1});
    ASSERT_TRUE(policy.Step(statistics).ok());
    uint32_t least = 8;
    uint32_t most = 2;
    for (size_t t = 1; t < 5; ++t) {
      least = std::min(least, policy.rows()[t].params.bits);
      most = std::max(most, policy.rows()[t].params.bits);
    }
    spread[i] = most - least;
  }
  EXPECT_GT(spread[0], spread[1]);
  EXPECT_GT(spread[1], spread[2]);
}

class WithoutAGradient : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(AdaptivePolicy, WithoutAGradient, ::testing::Values("relative", "adam"));

TEST_P(WithoutAGradient, ATensorHasNoErrorThatIsByIt) {
  AdaptivePolicy policy(ConfigOf({{"policy.error", GetParam()}}), kRanks, Layers());
  std::vector<TensorStatistics> statistics = StatisticsOf(policy, kScales);
  for (double& error : statistics[4].squared_error) error /= 200;
  for (const double norm : {0.0, 1e-300}) {
    statistics[2].norm = norm;  // what is left is the residual's
    const auto outcome = policy.Step(statistics);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_TRUE(std::isfinite(outcome->error));
    EXPECT_EQ(policy.rows()[2].params.bits, 4u);
    EXPECT_EQ(policy.rows()[2].reason, "configured");
  }
  EXPECT_LT(policy.rows()[4].params.bits, 4u);
  for (TensorStatistics& its : statistics) its.norm = 0;
  const auto none = policy.Step(statistics);
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->changed);
}

TEST(AdaptivePolicy, AHigherAlphaSendsLessAndALowerOneMore) {
  double last = std::numeric_limits<double>::infinity();
  for (const double alpha : {0.25, 0.5, 1.0, 2.0, 4.0}) {
    AdaptivePolicy policy(ConfigOf({{"policy.alpha", std::to_string(alpha)}, {"policy.gain", "0"}}), kRanks,
                          Layers());
    const auto outcome = policy.Step(StatisticsOf(policy, kScales));
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_LE(outcome->error, outcome->budget);
    EXPECT_LT(outcome->bytes, last) << alpha;
    last = outcome->bytes;
  }
  AdaptivePolicy policy(ConfigOf(), kRanks, Layers());
  EXPECT_TRUE(policy.SetAlpha(2).ok());
  for (const double alpha : {0.0, -1.0, HUGE_VAL, std::nan("")}) {
    EXPECT_EQ(policy.SetAlpha(alpha).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(AdaptivePolicy, MoreFamiliesSendNoMore) {
  AdaptivePolicy one(ConfigOf(), kRanks, Layers());
  AdaptivePolicy mixed(ConfigOf({{"policy.families", "topk, powersgd"}}), kRanks, Layers());
  const auto alone = one.Step(StatisticsOf(one, kScales));
  const auto together = mixed.Step(StatisticsOf(mixed, kScales));
  ASSERT_TRUE(alone.ok() && together.ok());
  EXPECT_EQ(together->budget, alone->budget);
  EXPECT_LE(together->bytes, alone->bytes);
}

TEST(AdaptivePolicy, APlanThatLeavesTheBudgetIsReplacedThoughItSendsMore) {
  AdaptivePolicy policy(ConfigOf({{"policy.gain", "0.2"}}), kRanks, Layers());
  ASSERT_TRUE(policy.SetAlpha(8).ok());
  const auto wide = policy.Step(StatisticsOf(policy, kScales));
  ASSERT_TRUE(wide.ok() && wide->changed);
  ASSERT_TRUE(policy.SetAlpha(1).ok());
  const auto narrow = policy.Step(StatisticsOf(policy, kScales));
  ASSERT_TRUE(narrow.ok());
  EXPECT_TRUE(narrow->changed);
  EXPECT_GT(narrow->bytes, wide->bytes);
  EXPECT_LE(narrow->error, narrow->budget);
}

TEST(AdaptivePolicy, WithoutAGradientNothingChanges) {
  AdaptivePolicy policy(ConfigOf(), kRanks, Layers());
  const std::vector<wire::PlanRow> rows = policy.rows();
  const auto outcome = policy.Step(StatisticsOf(policy, {0, 0, 0, 0, 0}));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_FALSE(outcome->changed);
  EXPECT_EQ(outcome->why, "no gradient to decide from");
  EXPECT_EQ(policy.rows(), rows);
}

TEST(AdaptivePolicy, AccordionIsMildWhereNormsMoveAndStrongWhereTheyRest) {
  AdaptivePolicy policy(ConfigOf({{"compressor", "powersgd"}, {"policy.name", "accordion"}}), kRanks,
                        Layers());
  const auto ranks = [&] { return std::pair(policy.rows()[3].params.rank, policy.rows()[4].params.rank); };
  const auto step = [&](double third, double fourth) {
    const auto outcome = policy.Step(StatisticsOf(policy, {1, 1, 1, third, fourth}));
    EXPECT_TRUE(outcome.ok()) << outcome.status();
  };
  step(1, 1);
  EXPECT_EQ(ranks(), std::pair(8u, 8u)) << "never seen before";
  step(1.4, 1.5);
  EXPECT_EQ(ranks(), std::pair(2u, 8u)) << "half or more is critical";
  step(0.6, 1.5);
  EXPECT_EQ(ranks(), std::pair(8u, 2u));
  step(0, 0);
  step(1, 0);
  EXPECT_EQ(ranks(), std::pair(8u, 8u)) << "from nothing";
}

TEST(AdaptivePolicy, LgrecoDividesAccordionsBudget) {
  AdaptivePolicy policy(
      ConfigOf({{"compressor", "powersgd"}, {"policy.name", "lgreco_accordion"}, {"policy.gain", "0"}}),
      kRanks, Layers());
  const auto mild = policy.Step(StatisticsOf(policy, kScales));
  ASSERT_TRUE(mild.ok()) << mild.status();
  const auto strong = policy.Step(StatisticsOf(policy, kScales));
  ASSERT_TRUE(strong.ok()) << strong.status();
  EXPECT_GT(strong->budget, mild->budget);
  EXPECT_LT(strong->bytes, mild->bytes);
  EXPECT_LE(strong->error, strong->budget);
}

TEST(AdaptivePolicy, AHeldTensorHasNoPartInIt) {
  AdaptivePolicy policy(ConfigOf(), kRanks, Layers());
  const wire::PlanRow row = policy.rows()[4];
  const auto free = policy.Step(StatisticsOf(policy, kScales));
  ASSERT_TRUE(free.ok()) << free.status();
  AdaptivePolicy holding(ConfigOf(), kRanks, Layers());
  holding.Hold(4, true);
  const auto held = holding.Step(StatisticsOf(holding, kScales));
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(holding.rows()[4], row);
  EXPECT_LT(held->budget, free->budget);
  EXPECT_LT(held->uniform_bytes, free->uniform_bytes);
  holding.Hold(4, false);
  ASSERT_TRUE(holding.Step(StatisticsOf(holding, kScales)).ok());
  EXPECT_EQ(wire::RowText(holding.rows()[4]), wire::RowText(policy.rows()[4]));
}

TEST(AdaptivePolicy, ATensorThatWasNotMeasuredStaysAsItIs) {
  AdaptivePolicy policy(ConfigOf(), kRanks, Layers());
  auto statistics = StatisticsOf(policy, kScales);
  statistics[4].squared_error.clear();
  const wire::PlanRow row = policy.rows()[4];
  const auto outcome = policy.Step(statistics);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(wire::RowText(policy.rows()[4]), wire::RowText(row));
}

TEST(AdaptivePolicy, GoesOnFromRowsThatItIsTold) {
  AdaptivePolicy first(ConfigOf(), kRanks, Layers());
  const auto statistics = StatisticsOf(first, kScales);
  const auto outcome = first.Step(statistics);
  ASSERT_TRUE(outcome.ok() && outcome->changed);
  AdaptivePolicy second(ConfigOf(), kRanks, Layers());
  second.Assume(first.rows());
  const auto again = second.Step(statistics);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->changed);
  EXPECT_EQ(again->bytes, outcome->bytes);
}

TEST(AdaptivePolicy, TheSameStatisticsGiveTheSamePlans) {
  std::vector<std::vector<wire::PlanRow>> first;
  for (int run = 0; run < 2; ++run) {
    AdaptivePolicy policy(ConfigOf({{"policy.families", "topk"}, {"policy.gain", "0"}}), kRanks, Layers());
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(policy.Step(StatisticsOf(policy, {1, 8.0 / (i + 1), 4, 1 + 0.3 * i, 0.25})).ok());
      if (run == 0) first.push_back(policy.rows());
      EXPECT_EQ(policy.rows(), first[static_cast<size_t>(i)]);
    }
  }
}

TEST(AdaptivePolicy, StatisticsThatAreNoneAreRefusedAndChangeNothing) {
  AdaptivePolicy policy(ConfigOf(), kRanks, Layers());
  const std::vector<wire::PlanRow> rows = policy.rows();
  const auto good = StatisticsOf(policy, kScales);
  const auto message = [&](const std::vector<TensorStatistics>& statistics) {
    const auto outcome = policy.Step(statistics);
    EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(policy.rows(), rows);
    return std::string(outcome.status().message());
  };
  EXPECT_THAT(message({}), HasSubstr("statistics of 0 tensors where there are 5"));
  auto bad = good;
  bad[2].squared_error.pop_back();
  EXPECT_THAT(message(bad), HasSubstr("tensor 2: 7 errors for 8 candidates"));
  for (const double number : {std::nan(""), HUGE_VAL, -1.0}) {
    bad = good;
    bad[3].squared_error[1] = number;
    EXPECT_THAT(message(bad), HasSubstr("tensor 3: an error or a norm is "));
    bad = good;
    bad[3].norm = number;
    EXPECT_THAT(message(bad), HasSubstr("tensor 3: an error or a norm is "));
  }
}

}  // namespace
}  // namespace terse::policy
