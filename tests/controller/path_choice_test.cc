// SPDX-License-Identifier: Apache-2.0
//
// The choice between dense and compressed, on times that are written down here.
#include "runtime/controller/policy/path_choice.h"

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "gmock/gmock.h"

namespace terse::policy {
namespace {

using ::testing::HasSubstr;

constexpr double kMissing = PathTimes::kMissing;

// What exchanges take at a time.
struct Traffic {
  double compressed_ms;
  double dense_ms;
};

// One exchange as the engine makes it: on trial both are timed, as much of the tensor as is asked for going
// dense; else the path in use.
std::optional<PathDecision> Exchange(PathChoice* choice, const Traffic& traffic) {
  const bool trying = choice->trying();
  const bool dense = choice->path() == Path::kDense;
  if (!choice->Exchanged()) return std::nullopt;
  const double dense_ms = trying ? choice->dense_part() * traffic.dense_ms : traffic.dense_ms;
  return choice->Step({.compressed_ms = dense ? kMissing : traffic.compressed_ms,
                       .dense_ms = dense || trying ? dense_ms : kMissing});
}

// Exchanges until a trial ends; how many, or -1.
int UntilDecided(PathChoice* choice, const Traffic& traffic, PathDecision* decision, int most = 100000) {
  for (int i = 1; i <= most; ++i) {
    if (const auto made = Exchange(choice, traffic); made.has_value()) {
      *decision = *made;
      return i;
    }
  }
  return -1;
}

PathChoice Decided(const Traffic& traffic) {
  PathChoice choice;
  PathDecision decision;
  EXPECT_GT(UntilDecided(&choice, traffic, &decision), 0);
  return choice;
}

TEST(PathChoice, BeginsCompressedAndOnTrial) {
  const PathChoice choice;
  EXPECT_EQ(choice.path(), Path::kCompressed);
  EXPECT_TRUE(choice.trying());
  EXPECT_EQ(choice.last(), nullptr);
}

TEST(PathChoice, DecidesAtOnceWhereThereIsNoDoubt) {
  PathDecision decision;
  PathChoice choice;
  EXPECT_EQ(UntilDecided(&choice, {.compressed_ms = 1, .dense_ms = 9}, &decision), 3);
  EXPECT_EQ(choice.path(), Path::kCompressed);
  EXPECT_FALSE(choice.trying());
  EXPECT_FALSE(decision.changed);
  EXPECT_EQ(decision.cause, TrialCause::kFirst);
  EXPECT_EQ(Reason(decision), "compressed is faster: 1 ms < 9 ms");

  PathChoice other;
  EXPECT_EQ(UntilDecided(&other, {.compressed_ms = 1.9, .dense_ms = 0.5}, &decision), 3);
  EXPECT_EQ(other.path(), Path::kDense);
  EXPECT_TRUE(decision.changed);
  EXPECT_EQ(Reason(decision), "dense is faster: 0.5 ms < 1.9 ms");
  EXPECT_EQ(other.last()->dense_ms, 0.5);
}

TEST(PathChoice, TakesFiveTimesWhereThereIs) {
  PathDecision decision;
  PathChoice choice;
  EXPECT_EQ(UntilDecided(&choice, {.compressed_ms = 1.9, .dense_ms = 1.2}, &decision), 6);
  EXPECT_EQ(choice.path(), Path::kDense);
  EXPECT_EQ(Reason(decision), "dense is faster: 1.2 ms < 1.9 ms");
}

TEST(PathChoice, TheFirstExchangeOnlyWarmsUp) {
  PathChoice choice;
  EXPECT_FALSE(Exchange(&choice, {.compressed_ms = 1000, .dense_ms = 1}).has_value());
  PathDecision decision;
  EXPECT_EQ(UntilDecided(&choice, {.compressed_ms = 1, .dense_ms = 3}, &decision), 2);
  EXPECT_EQ(decision.compressed_ms, 1);
}

TEST(PathChoice, ATieIsDense) {
  PathDecision decision;
  PathChoice choice;
  EXPECT_EQ(UntilDecided(&choice, {.compressed_ms = 2, .dense_ms = 2}, &decision), 6);
  EXPECT_EQ(choice.path(), Path::kDense);
  EXPECT_EQ(Reason(decision), "compressed is not faster: 2 ms, dense 2 ms");

  PathChoice dense = Decided({.compressed_ms = 2, .dense_ms = 1});
  ASSERT_GT(UntilDecided(&dense, {.compressed_ms = 2, .dense_ms = 2}, &decision), 0);
  EXPECT_EQ(dense.path(), Path::kDense);
  EXPECT_FALSE(decision.changed);
  EXPECT_EQ(Reason(decision), "compressed is not faster: 2 ms, dense 2 ms");
}

TEST(PathChoice, CompressedMustBeAFifthFasterAndATwentiethMoreToComeBack) {
  EXPECT_EQ(Decided({.compressed_ms = 80, .dense_ms = 100}).path(), Path::kCompressed);
  EXPECT_EQ(Decided({.compressed_ms = 80.1, .dense_ms = 100}).path(), Path::kDense);
  PathDecision decision;
  PathChoice choice = Decided({.compressed_ms = 100, .dense_ms = 94.9});
  ASSERT_GT(UntilDecided(&choice, {.compressed_ms = 77, .dense_ms = 100}, &decision), 0);
  EXPECT_EQ(choice.path(), Path::kDense);
  EXPECT_EQ(Reason(decision), "compressed is not much faster: 77 ms, dense 100 ms");
  PathChoice back = Decided({.compressed_ms = 100, .dense_ms = 94.9});
  ASSERT_GT(UntilDecided(&back, {.compressed_ms = 75.9, .dense_ms = 100}, &decision), 0);
  EXPECT_EQ(back.path(), Path::kCompressed);
  EXPECT_TRUE(decision.changed);
}

TEST(PathChoice, WithinAMachineCompressedMustTakeHalf) {
  for (const auto& [compressed_ms, path] :
       {std::pair(51.0, Path::kDense), std::pair(49.0, Path::kCompressed)}) {
    PathChoice choice(kWorthWithinMachine);
    PathDecision decision;
    ASSERT_GT(UntilDecided(&choice, {.compressed_ms = compressed_ms, .dense_ms = 100}, &decision), 0);
    EXPECT_EQ(choice.path(), path);
  }
}

TEST(PathChoice, OutliersDoNotDecide) {
  PathChoice choice;
  std::optional<PathDecision> decision;
  const std::vector<Traffic> exchanges = {{1, 1.3}, {90, 1.3}, {1, 1.3}, {1, 70}, {80, 1.3}, {1, 1.3}};
  for (const Traffic& traffic : exchanges) {
    EXPECT_FALSE(decision.has_value());
    decision = Exchange(&choice, traffic);
  }
  ASSERT_TRUE(decision.has_value());
  EXPECT_EQ(decision->path, Path::kCompressed);
  EXPECT_EQ(decision->compressed_ms, 1);
  EXPECT_EQ(decision->dense_ms, 1.3);
}

TEST(PathChoice, OfALargeTensorAQuarterIsEnoughToTell) {
  PathChoice choice(kWorthBetweenMachines, FirstDensePart(1 << 20));
  EXPECT_EQ(choice.dense_part(), 0.25);
  PathDecision decision;
  EXPECT_EQ(UntilDecided(&choice, {.compressed_ms = 2, .dense_ms = 16}, &decision), 3);
  EXPECT_EQ(choice.path(), Path::kCompressed);
  EXPECT_EQ(decision.dense_ms, 16) << "at the rate of the quarter";
  EXPECT_EQ(decision.dense_part, 0.25);
  EXPECT_EQ(Reason(decision), "compressed is faster: 2 ms < about 16 ms");
  // 3 times 4 ms, of which 1 % of the time at 2 ms each pays.
  EXPECT_EQ(choice.wait(), 600u);

  for (uint64_t e = 0; e < 600; ++e) Exchange(&choice, {.compressed_ms = 2, .dense_ms = 16});
  EXPECT_TRUE(choice.trying());
  EXPECT_EQ(choice.dense_part(), 0.25) << "later trials begin alike";
}

TEST(PathChoice, TheWholeIsTimedWhereAQuarterDoesNotTell) {
  // The first exchange shows it: no exchange is spent on quarters.
  PathChoice dense(kWorthBetweenMachines, 0.25);
  PathDecision decision;
  EXPECT_EQ(UntilDecided(&dense, {.compressed_ms = 40, .dense_ms = 16}, &decision), 3);
  EXPECT_EQ(decision.path, Path::kDense);
  EXPECT_EQ(decision.dense_ms, 16);
  EXPECT_EQ(decision.dense_part, 1);
  EXPECT_EQ(dense.dense_part(), 1);

  // Against quarters of 4 ms 3.5 are not worth it, against wholes of 16 they are.
  PathChoice compressed(kWorthBetweenMachines, 0.25);
  EXPECT_EQ(UntilDecided(&compressed, {.compressed_ms = 3.5, .dense_ms = 16}, &decision), 5);
  EXPECT_EQ(decision.path, Path::kCompressed);
  EXPECT_EQ(decision.dense_part, 1);
  EXPECT_EQ(Reason(decision), "compressed is faster: 3.5 ms < 16 ms");

  // Nor does one of two, the other held up by something else.
  PathChoice held_up(kWorthBetweenMachines, 0.25);
  for (const double dense_ms : {8.0, 80.0, 8.0})
    EXPECT_FALSE(Exchange(&held_up, {1.9, dense_ms}).has_value());
  EXPECT_EQ(held_up.dense_part(), 1);
}

TEST(PathChoice, SmallTensorsGoWhole) {
  EXPECT_EQ(FirstDensePart(0), 1);
  EXPECT_EQ(FirstDensePart(100000), 1);
  EXPECT_LT(FirstDensePart(300000), 1);
}

TEST(PathChoice, MissingTimesDoNotCount) {
  PathChoice choice;
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(choice.Exchanged());
    EXPECT_FALSE(choice.Step({.compressed_ms = 1, .dense_ms = kMissing}).has_value());
    EXPECT_FALSE(choice.Step({.compressed_ms = kMissing, .dense_ms = 1}).has_value());
    EXPECT_FALSE(
        choice.Step({.compressed_ms = std::numeric_limits<double>::quiet_NaN(), .dense_ms = 1}).has_value());
    EXPECT_FALSE(
        choice.Step({.compressed_ms = 1, .dense_ms = std::numeric_limits<double>::infinity()}).has_value());
  }
  EXPECT_TRUE(choice.trying());
  PathDecision decision;
  EXPECT_EQ(UntilDecided(&choice, {.compressed_ms = 1, .dense_ms = 3}, &decision), 3);
}

TEST(PathChoice, TriesAgainAfterAWaitThatKeepsTrialsCheapAndGrows) {
  // A trial of 3 exchanges at 4 ms, of which 1 % of the time at 1 ms each pays: 1200 exchanges.
  const Traffic traffic{.compressed_ms = 4, .dense_ms = 1};
  PathChoice choice = Decided(traffic);
  EXPECT_EQ(choice.wait(), 1200u);
  EXPECT_EQ(choice.dense_run(), 0u);
  uint64_t wait = choice.wait();
  for (int i = 0; i < 4; ++i) {
    PathDecision decision;
    for (uint64_t e = 1; e < wait; ++e) ASSERT_FALSE(Exchange(&choice, traffic).has_value());
    EXPECT_EQ(choice.path(), Path::kDense) << "until the wait is over";
    EXPECT_EQ(choice.dense_run(), wait - 1);
    EXPECT_FALSE(choice.trying());
    ASSERT_FALSE(Exchange(&choice, traffic).has_value());
    EXPECT_EQ(choice.path(), Path::kCompressed) << "for the trial";
    EXPECT_EQ(choice.dense_run(), 0u);
    EXPECT_EQ(UntilDecided(&choice, traffic, &decision), 3);
    EXPECT_EQ(decision.cause, TrialCause::kDue);
    EXPECT_FALSE(decision.changed);
    EXPECT_EQ(choice.path(), Path::kDense);
    EXPECT_EQ(choice.wait(), 2 * wait);
    wait = choice.wait();
  }
  // What changes the path begins anew.
  PathDecision decision;
  ASSERT_GT(UntilDecided(&choice, {.compressed_ms = 0.25, .dense_ms = 1}, &decision), 0);
  EXPECT_TRUE(decision.changed);
  EXPECT_EQ(choice.wait(), 1200u);
}

TEST(PathChoice, AWaitIsNeverEndlessNorNone) {
  EXPECT_EQ(Decided({.compressed_ms = 1, .dense_ms = 1e9}).wait(), 1000000u);
  EXPECT_EQ(Decided({.compressed_ms = 0, .dense_ms = 0}).wait(), 1000000u);
  EXPECT_EQ(Decided({.compressed_ms = 1, .dense_ms = 1}).wait(), 600u);
}

TEST(PathChoice, TriesAgainWhenTrafficChanges) {
  for (const double factor : {2.5, 0.3}) {
    PathChoice choice = Decided({.compressed_ms = 4, .dense_ms = 1});
    for (int i = 0; i < 400; ++i) {
      Exchange(&choice, {.compressed_ms = 4, .dense_ms = 1});
      ASSERT_FALSE(choice.trying()) << i;
    }
    int took = 0;
    const Traffic changed{.compressed_ms = 0.1, .dense_ms = factor};
    while (!choice.trying() && took < 1000) {
      Exchange(&choice, changed);
      ++took;
    }
    EXPECT_LE(took, 24) << "three looks of five";
    PathDecision decision;
    ASSERT_GT(UntilDecided(&choice, changed, &decision), 0);
    EXPECT_EQ(decision.cause, factor > 1 ? TrialCause::kSlower : TrialCause::kFaster);
    EXPECT_EQ(decision.path, Path::kCompressed);
  }
}

TEST(PathChoice, ALittleChangeOrAFewOutliersAreNoChange) {
  PathChoice choice = Decided({.compressed_ms = 4, .dense_ms = 1});
  for (int i = 0; i < 1100; ++i) {
    const double dense = i % 24 < 8 ? 50 : (i % 2 == 0 ? 0.55 : 1.9);
    Exchange(&choice, {.compressed_ms = 4, .dense_ms = dense});
    ASSERT_FALSE(choice.trying()) << i;
  }
}

TEST(PathChoice, TrafficThatJumpsDoesNotCauseTrialsAllTheTime) {
  PathChoice choice = Decided({.compressed_ms = 4, .dense_ms = 1});
  uint64_t on_trial = 0;
  constexpr uint64_t kExchanges = 20000;
  for (uint64_t i = 0; i < kExchanges; ++i) {
    const double speed = i / 50 % 2 == 0 ? 1 : 5;
    on_trial += choice.trying() ? 1 : 0;
    Exchange(&choice, {.compressed_ms = 4 * speed, .dense_ms = speed});
  }
  EXPECT_GT(on_trial, 0u);
  EXPECT_LT(on_trial, kExchanges / 50);
}

TEST(PathChoice, RestartForgets) {
  PathChoice choice = Decided({.compressed_ms = 4, .dense_ms = 1});
  choice.Restart();
  EXPECT_TRUE(choice.trying());
  EXPECT_EQ(choice.path(), Path::kCompressed);
  EXPECT_EQ(choice.last(), nullptr);
  PathDecision decision;
  EXPECT_EQ(UntilDecided(&choice, {.compressed_ms = 0.78, .dense_ms = 1}, &decision), 6);
  EXPECT_EQ(decision.path, Path::kCompressed) << "what was dense before would have to be faster yet";
  EXPECT_EQ(decision.cause, TrialCause::kPlan);
}

TEST(PathChoice, RevisionTellsEveryChange) {
  PathChoice choice;
  uint64_t revision = choice.revision();
  PathDecision decision;
  ASSERT_GT(UntilDecided(&choice, {.compressed_ms = 4, .dense_ms = 1}, &decision), 0);
  EXPECT_NE(choice.revision(), revision);
  revision = choice.revision();
  while (!choice.trying()) {
    EXPECT_EQ(choice.revision(), revision);
    Exchange(&choice, {.compressed_ms = 4, .dense_ms = 1});
  }
  EXPECT_NE(choice.revision(), revision);
}

TEST(PathChoice, WordsOfCauses) {
  EXPECT_THAT(std::string(Words(TrialCause::kSlower)), HasSubstr("slower"));
  EXPECT_THAT(std::string(Words(TrialCause::kFaster)), HasSubstr("faster"));
  EXPECT_THAT(std::string(Words(TrialCause::kDue)), HasSubstr("due"));
  EXPECT_THAT(std::string(Words(TrialCause::kPlan)), HasSubstr("plan"));
  EXPECT_THAT(std::string(Words(TrialCause::kFirst)), HasSubstr("first"));
}

}  // namespace
}  // namespace terse::policy
