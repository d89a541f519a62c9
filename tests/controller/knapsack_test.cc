// SPDX-License-Identifier: Apache-2.0
//
// The knapsack under L-GreCo, against choices that are counted out and against a program over whole errors
// that is written here.
#include "runtime/controller/policy/knapsack.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"

namespace terse::policy {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kNever = std::numeric_limits<double>::infinity();

double Value(const Knapsack& problem, const KnapsackAnswer& answer) {
  return problem.ready.empty() ? answer.size : answer.finish;
}

// Errors, sizes and times as they come: some equal, some zero, some candidates worse than others.
Knapsack Random(std::mt19937* random, size_t layers, size_t most, bool timed, bool whole) {
  const auto number = [&](int top) -> double {
    const auto n = static_cast<double>((*random)() % static_cast<unsigned>(top));
    return whole ? n : n + 0.37 * static_cast<double>((*random)() % 1000) / 1000;
  };
  Knapsack problem;
  double least = 0;
  double greatest = 0;
  for (size_t l = 0; l < layers; ++l) {
    const size_t count = 1 + (*random)() % most;
    std::vector<double> error(count);
    std::vector<double> size(count);
    for (size_t k = 0; k < count; ++k) {
      error[k] = number(30);
      size[k] = number(50);
    }
    least += *std::min_element(error.begin(), error.end());
    greatest += *std::max_element(error.begin(), error.end());
    problem.error.push_back(error);
    problem.size.push_back(size);
    if (timed) problem.ready.push_back(static_cast<double>(l) * number(30));
  }
  problem.budget = least + (greatest - least) * static_cast<double>((*random)() % 100) / 100;
  if (whole) problem.budget = std::floor(problem.budget);
  return problem;
}

// The least value of all choices, and how often it was counted; kNever where none is within the budget.
double CountedOut(const Knapsack& problem) {
  std::vector<uint32_t> choice(problem.error.size(), 0);
  double best = kNever;
  for (;;) {
    const KnapsackAnswer answer = Evaluate(problem, choice);
    if (answer.error <= problem.budget) best = std::min(best, Value(problem, answer));
    size_t l = 0;
    while (l < choice.size() && ++choice[l] == problem.error[l].size()) choice[l++] = 0;
    if (l == choice.size()) return best;
  }
}

// The same for errors that are whole numbers, however many choices there are.
double ByWholeErrors(const Knapsack& problem, double budget) {
  if (budget < 0) return kNever;
  std::vector<double> least(static_cast<size_t>(budget) + 1, 0.0);
  for (size_t l = 0; l < problem.error.size(); ++l) {
    std::vector<double> next(least.size(), kNever);
    for (size_t j = 0; j < least.size(); ++j) {
      for (size_t k = 0; k < problem.error[l].size(); ++k) {
        const auto e = static_cast<size_t>(problem.error[l][k]);
        if (e > j) continue;
        const double start = std::max(least[j - e], problem.ready.empty() ? 0.0 : problem.ready[l]);
        next[j] = std::min(next[j], start + problem.size[l][k]);
      }
    }
    least = next;
  }
  return least.back();
}

void ExpectSound(const Knapsack& problem, const KnapsackAnswer& answer) {
  const KnapsackAnswer again = Evaluate(problem, answer.choice);
  EXPECT_EQ(again.size, answer.size);
  EXPECT_EQ(again.error, answer.error);
  EXPECT_EQ(again.finish, answer.finish);
  EXPECT_LE(answer.error, problem.budget);
  EXPECT_LE(answer.lower_bound, Value(problem, answer));
}

Knapsack Oracle(double budget) {
  return {.error = {{9, 5, 2, 0}, {12, 7, 3, 1}, {20, 11, 6, 2}, {4, 2, 1, 0}},
          .size = {{2, 4, 8, 16}, {3, 6, 12, 24}, {10, 20, 40, 80}, {1, 2, 4, 8}},
          .budget = budget};
}

TEST(Knapsack, SolvesTheOraclesOfTheReference) {
  struct Row {
    double budget;
    double size;
    std::vector<uint32_t> choice;  // empty: there are several
    double bound;
  };
  const std::vector<Row> rows = {
      {6, 112, {3, 2, 3, 2}, 98}, {10, 72, {3, 2, 2, 2}, 72}, {15, 52, {3, 2, 1, 2}, 52}, {21, 38, {}, 37.5},
      {25, 32, {1, 1, 1, 1}, 32}, {30, 28, {}, 26.444},       {45, 16, {0, 0, 0, 0}, 16}};
  for (const Row& row : rows) {
    const Knapsack problem = Oracle(row.budget);
    const auto answer = Solve(problem);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ExpectSound(problem, *answer);
    EXPECT_EQ(answer->size, row.size) << row.budget;
    EXPECT_EQ(answer->way, KnapsackWay::kExact);
    if (!row.choice.empty()) {
      EXPECT_EQ(answer->choice, row.choice) << row.budget;
    }
    EXPECT_THAT(answer->lower_bound, DoubleNear(row.bound, 1e-3)) << row.budget;
  }
  const auto none = Solve(Oracle(2));
  EXPECT_EQ(none.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("the least error that there is is 3"));
}

TEST(Knapsack, FewCandidatesAreSolvedExactly) {
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    const bool timed = i % 2 == 1;
    const Knapsack problem = Random(&random, 1 + random() % 6, 5, timed, i % 3 == 0);
    const auto answer = Solve(problem);
    ASSERT_TRUE(answer.ok()) << i << answer.status();
    ExpectSound(problem, *answer);
    const double best = CountedOut(problem);
    EXPECT_THAT(Value(problem, *answer), DoubleNear(best, 1e-9)) << i;
    EXPECT_LE(answer->lower_bound, best + 1e-9) << i;
    EXPECT_EQ(answer->way, KnapsackWay::kExact);
  }
}

TEST(Knapsack, SixtyThreeCandidatesAreSolvedExactly) {
  std::mt19937 random(2);
  // Sizes that errors and nothing else make up for: what branching cannot cut short.
  for (const size_t each : {3, 7, 21}) {
    Knapsack problem;
    for (size_t l = 0; l < 63 / each; ++l) {
      problem.error.emplace_back();
      problem.size.emplace_back();
      for (size_t k = 0; k < each; ++k) {
        problem.error.back().push_back(static_cast<double>(random() % 1000));
        problem.size.back().push_back(1000 - problem.error.back().back());
      }
    }
    problem.budget = 401.0 * static_cast<double>(problem.error.size());
    const auto answer = Solve(problem);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ExpectSound(problem, *answer);
    EXPECT_EQ(answer->size, ByWholeErrors(problem, problem.budget));
  }
}

TEST(Knapsack, ManyCandidatesAreWithinTheBoundOfTheBins) {
  std::mt19937 random(3);
  int exact = 0;
  for (int i = 0; i < 60; ++i) {
    Knapsack problem = Random(&random, 20 + random() % 80, 8, i % 2 == 1, true);
    std::vector<uint32_t> uniform(problem.error.size(), 0);
    problem.budget = std::floor(std::max(problem.budget, Evaluate(problem, uniform).error));
    problem.fallback = uniform;
    const auto answer = Solve(problem);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ExpectSound(problem, *answer);
    const double best = ByWholeErrors(problem, problem.budget);
    const double layers = static_cast<double>(problem.error.size());
    EXPECT_GE(Value(problem, *answer), best);
    EXPECT_LE(Value(problem, *answer), ByWholeErrors(problem, problem.budget * (1 - layers / 10000)));
    EXPECT_LE(Value(problem, *answer), Value(problem, Evaluate(problem, uniform)));
    EXPECT_LE(answer->lower_bound, best + 1e-9);
    exact += Value(problem, *answer) == best ? 1 : 0;
    // The published program alone.
    const auto binned = SolveByBins(problem);
    ASSERT_TRUE(binned.ok()) << binned.status();
    EXPECT_LE(binned->error, problem.budget);
    EXPECT_LE(Value(problem, *binned), ByWholeErrors(problem, problem.budget * (1 - layers / 10000)));
    EXPECT_LE(Value(problem, *binned), Value(problem, Evaluate(problem, uniform)));
  }
  EXPECT_GT(exact, 50);
}

// Layers as a network has them: sizes over three decades, errors that fall geometrically with bits.
Knapsack Network(size_t layers, size_t candidates, bool timed) {
  std::mt19937 random(4);
  Knapsack problem;
  std::vector<uint32_t> uniform(layers, static_cast<uint32_t>(candidates / 3));
  double backward = 0;
  for (size_t l = 0; l < layers; ++l) {
    const double elements = std::pow(10.0, 3 + static_cast<double>(random() % 3000) / 1000);
    const double scale = std::sqrt(elements) * (0.1 + static_cast<double>(random() % 1000) / 100);
    std::vector<double> error;
    std::vector<double> size;
    for (size_t k = 0; k < candidates; ++k) {
      const double bits = 1 + 7 * static_cast<double>(k) / static_cast<double>(candidates - 1);
      error.push_back(scale * std::pow(2.0, -bits) * (1 + static_cast<double>(random() % 100) / 1000));
      size.push_back(elements * bits / 8 * (1 + static_cast<double>(random() % 100) / 1000));
    }
    problem.error.push_back(error);
    problem.size.push_back(size);
    if (timed) problem.ready.push_back(backward += elements * 0.3);
  }
  problem.budget = Evaluate(problem, uniform).error;
  problem.fallback = uniform;
  return problem;
}

TEST(Knapsack, TenThousandTensorsAreNearTheBound) {
  for (const bool timed : {false, true}) {
    const Knapsack problem = Network(10000, 32, timed);
    const auto answer = Solve(problem);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ExpectSound(problem, *answer);
    EXPECT_LT(Value(problem, *answer), Value(problem, Evaluate(problem, problem.fallback)));
    EXPECT_LT(answer->Gap(timed), timed ? 1e-3 : 1e-5);
    const auto again = Solve(problem);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->choice, answer->choice);
  }
}

TEST(Knapsack, SomeHundredTensorsAreNearTheBound) {
  for (const size_t layers : {101, 400, 1500}) {
    for (const bool timed : {false, true}) {
      const Knapsack problem = Network(layers, 16, timed);
      const auto answer = Solve(problem);
      ASSERT_TRUE(answer.ok()) << answer.status();
      ExpectSound(problem, *answer);
      EXPECT_LT(answer->Gap(timed), 2e-3) << layers << timed;
    }
  }
}

TEST(Knapsack, TheFallbackIsKeptThoughItsErrorsRoundUpAboveTheBudget) {
  // Errors of the only candidates are the budget; each is rounded up to a whole bin and a half.
  Knapsack problem;
  for (int l = 0; l < 80; ++l) {
    problem.error.push_back({1.0 + 1e-3 * l});
    problem.size.push_back({1});
  }
  problem.fallback.assign(80, 0);
  problem.budget = Evaluate(problem, problem.fallback).error;
  const auto binned = SolveByBins(problem);
  ASSERT_TRUE(binned.ok()) << binned.status();
  EXPECT_EQ(binned->way, KnapsackWay::kFallback);
  EXPECT_TRUE(Solve(problem).ok());
  problem.fallback.clear();
  EXPECT_EQ(SolveByBins(problem).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(Solve(problem).ok());
}

TEST(Knapsack, AnErrorOfZeroTakesNothing) {
  Knapsack problem;
  for (int l = 0; l < 100; ++l) {
    problem.error.push_back({0, 1});
    problem.size.push_back({10, 1});
  }
  problem.budget = 0;
  auto answer = Solve(problem);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->size, 1000);
  auto binned = SolveByBins(problem);
  ASSERT_TRUE(binned.ok()) << binned.status();
  EXPECT_EQ(binned->size, 1000);
  problem.budget = 100;
  EXPECT_EQ(Solve(problem)->size, 100);
  EXPECT_EQ(SolveByBins(problem)->size, 100);
  problem.budget = kNever;
  EXPECT_EQ(Solve(problem)->size, 100);
  EXPECT_EQ(SolveByBins(problem)->size, 100);
}

TEST(Knapsack, NoLayerAndOneLayerAreAnswered) {
  const auto none = Solve({});
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->choice.empty());
  EXPECT_EQ(none->size, 0);
  const auto one = Solve({.error = {{3, 2, 1}}, .size = {{1, 2, 3}}, .budget = 2});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_THAT(one->choice, ElementsAre(1));
  const auto timed = Solve({.error = {{3, 2, 1}}, .size = {{1, 2, 3}}, .budget = 2, .ready = {10}});
  ASSERT_TRUE(timed.ok()) << timed.status();
  EXPECT_THAT(timed->choice, ElementsAre(1));
  EXPECT_EQ(timed->finish, 12);
}

TEST(Knapsack, HiddenLayersAreLossless) {
  // The second layer is ready late: the first has time for its largest candidate.
  const auto answer =
      Solve({.error = {{5, 1, 0}, {5, 1, 0}}, .size = {{1, 2, 8}, {1, 2, 8}}, .budget = 6, .ready = {0, 10}});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(answer->choice, ElementsAre(2, 0));
  EXPECT_EQ(answer->finish, 11);
  EXPECT_EQ(answer->error, 5);
  EXPECT_EQ(answer->lower_bound, 11);
}

TEST(Knapsack, SizeDoesNotGrowWithTheBudgetNorDependOnScaleOrderOrWorseCandidates) {
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    Knapsack problem = Random(&random, 2 + random() % 5, 5, false, true);
    const auto answer = Solve(problem);
    ASSERT_TRUE(answer.ok()) << answer.status();

    Knapsack more = problem;
    more.budget += 3;
    EXPECT_LE(Solve(more)->size, answer->size);

    Knapsack scaled = problem;
    scaled.budget *= 1024;
    for (auto& layer : scaled.error) {
      for (double& e : layer) e *= 1024;
    }
    EXPECT_EQ(Solve(scaled)->choice, answer->choice);

    Knapsack reversed = problem;
    std::reverse(reversed.error.begin(), reversed.error.end());
    std::reverse(reversed.size.begin(), reversed.size.end());
    EXPECT_EQ(Solve(reversed)->size, answer->size);

    Knapsack worse = problem;
    for (size_t l = 0; l < worse.error.size(); ++l) {
      worse.error[l].push_back(worse.error[l][0] + 1);
      worse.size[l].push_back(worse.size[l][0] + 1);
    }
    EXPECT_EQ(Solve(worse)->choice, answer->choice);
  }
}

TEST(Knapsack, WhatIsNoProblemIsRefused) {
  const auto message = [](const Knapsack& problem) {
    const auto answer = Solve(problem);
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(answer.status().message());
  };
  EXPECT_THAT(message({.error = {{1}}, .size = {}}), HasSubstr("error has 1 layers and size 0"));
  EXPECT_THAT(message({.error = {{1}, {}}, .size = {{1}, {}}}), HasSubstr("layer 1: no candidate"));
  EXPECT_THAT(message({.error = {{1, 2}}, .size = {{1}}}), HasSubstr("layer 0: 2 errors and 1 sizes"));
  EXPECT_THAT(message({.error = {{1, NAN}}, .size = {{1, 1}}}), HasSubstr("layer 0: error[1] is nan"));
  EXPECT_THAT(message({.error = {{1}}, .size = {{kNever}}}), HasSubstr("layer 0: size[0] is inf"));
  EXPECT_THAT(message({.error = {{-1}}, .size = {{1}}}), HasSubstr("error[0] is -1"));
  EXPECT_THAT(message({.error = {{1}}, .size = {{1}}, .budget = NAN}), HasSubstr("budget is no number"));
  EXPECT_THAT(message({.error = {{1}}, .size = {{1}}, .budget = 1, .ready = {1, 2}}),
              HasSubstr("ready has 2"));
  EXPECT_THAT(message({.error = {{1}}, .size = {{1}}, .budget = 1, .ready = {NAN}}),
              HasSubstr("ready is nan"));
  EXPECT_THAT(message({.error = {{1}}, .size = {{1}}, .budget = 1, .ready = {}, .fallback = {1}}),
              HasSubstr("the fallback is candidate 1 of 1"));
  EXPECT_EQ(Solve({.error = {{1}}, .size = {{1}}, .budget = -1}).status().code(),
            absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace terse::policy
