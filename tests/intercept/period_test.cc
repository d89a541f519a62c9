// SPDX-License-Identifier: Apache-2.0
//
// The period learner on scripted sequences: a letter is a call signature.
#include "runtime/intercept/period.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace terse::testing {
namespace {

using intercept::PeriodLearner;
using Event = PeriodLearner::Event;

std::string Repeat(std::string_view text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

uint64_t Signature(char call) { return 0x1000003u * static_cast<uint64_t>(call) + 7; }

// Feeds calls and notes what came of them.
struct Script {
  explicit Script(PeriodLearner::Options options = {}) : learner(options) {}

  Script& Feed(std::string_view calls) {
    for (const char call : calls) {
      const PeriodLearner::Outcome outcome = learner.Next(Signature(call));
      ++fed;
      learned += outcome.event == Event::kLearned;
      deviated += outcome.event == Event::kDeviation;
      if (outcome.event == Event::kLearned && first_learned == 0) first_learned = fed;
      last = outcome;
      if (outcome.position < 0) {
        ++without_position;
      } else {
        // A position means one signature, for as long as the period stays the same.
        EXPECT_EQ(learner.period()[static_cast<size_t>(outcome.position)], Signature(call));
      }
    }
    return *this;
  }
  int length() const { return learner.learned() ? static_cast<int>(learner.period().size()) : 0; }

  PeriodLearner learner;
  PeriodLearner::Outcome last;
  int fed = 0;
  int first_learned = 0;
  int learned = 0;
  int deviated = 0;
  int without_position = 0;
};

TEST(Period, IsLearnedAfterThreeIdenticalPeriods) {
  Script script;
  script.Feed("ABCDABCDABC");
  EXPECT_FALSE(script.learner.learned());
  EXPECT_EQ(script.learner.next_position(), -1);
  script.Feed("D");
  EXPECT_EQ(script.last.event, Event::kLearned);
  EXPECT_EQ(script.length(), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(script.learner.next_position(), i);
    script.Feed(std::string(1, "ABCD"[i]));
    EXPECT_EQ(script.last.position, i);
  }
  script.Feed(Repeat("ABCD", 100));
  EXPECT_EQ(script.deviated, 0);
}

TEST(Period, TakesAsManyRepeatsAsAskedFor) {
  for (const int repeats : {2, 3, 5, 8}) {
    Script script({.repeats = repeats});
    script.Feed(Repeat("ABCDEF", 20));
    EXPECT_EQ(script.first_learned, 6 * repeats);
  }
}

TEST(Period, OfOneCall) {
  Script script;
  script.Feed("AAA");
  EXPECT_EQ(script.length(), 1);
  EXPECT_EQ(script.first_learned, 3);
}

TEST(Period, HoldsNestedRepetition) {
  Script script;
  script.Feed(Repeat("AAB", 3));
  EXPECT_EQ(script.length(), 3);
  EXPECT_EQ(script.learned, 1);
  script.Feed(Repeat("AAB", 50));
  EXPECT_EQ(script.deviated, 0);
}

TEST(Period, WithNoSignatureThatOccursOnce) {
  Script script;
  script.Feed(Repeat("AABB", 4));
  EXPECT_EQ(script.length(), 4);
  const std::string x = Repeat("A", 9) + "B";
  const std::string y = Repeat("A", 9) + "C";
  Script longer;
  longer.Feed(Repeat(x + x + y + y, 12));
  EXPECT_EQ(longer.length(), 40);
}

// A run of equal calls inside the step is taken for a period at first, but not for ever.
TEST(Period, LongRunsInsideAPeriodAreSeenThrough) {
  for (const int run : {3, 4, 10, 25}) {
    Script script;
    script.Feed(Repeat(Repeat("A", run) + "B", 12));
    EXPECT_EQ(script.length(), run + 1) << run;
    const int deviated = script.deviated;
    script.Feed(Repeat(Repeat("A", run) + "B", 200));
    EXPECT_EQ(script.deviated, deviated) << run;
  }
}

TEST(Period, TwoLevelsOfNesting) {
  const std::string inner = Repeat("A", 6) + "B";
  const std::string outer = Repeat(inner, 5) + "C";
  Script script;
  script.Feed(Repeat(outer, 20));
  EXPECT_EQ(script.length(), 36);
}

TEST(Period, CallsBeforeTheFirstStepDoNotMatter) {
  Script script;
  script.Feed("XYZZYX").Feed(Repeat("ABC", 3));
  EXPECT_EQ(script.length(), 3);
  EXPECT_EQ(script.first_learned, 6 + 9);
  script.Feed("A");
  EXPECT_EQ(script.last.position, 0) << "the period begins where it was first seen to";
}

TEST(Period, DeviationIsReportedAndLearningBeginsAnew) {
  Script script;
  script.Feed(Repeat("ABC", 40)).Feed("A");
  script.Feed("X");
  EXPECT_EQ(script.last.event, Event::kDeviation);
  EXPECT_EQ(script.last.position, -1);
  EXPECT_FALSE(script.learner.learned());
  EXPECT_EQ(script.learner.deviations(), 1);
  script.Feed(Repeat("PQ", 3));
  EXPECT_EQ(script.length(), 2);
}

TEST(Period, EvaluationPassesInterruptAndPositionsKeepTheirMeaning) {
  Script script;
  script.Feed(Repeat("ABCD", 100));
  const auto period = script.learner.period();
  for (int epoch = 0; epoch < 5; ++epoch) {
    script.Feed("EF");
    EXPECT_FALSE(script.learner.learned());
    const int before = script.without_position;
    script.Feed(Repeat("ABCD", 100));
    EXPECT_EQ(script.length(), 4);
    EXPECT_EQ(script.learner.period(), period);
    EXPECT_LE(script.without_position - before, 12) << "three periods to learn again, no more";
  }
  // In the middle of a step, too.
  script.Feed("AB").Feed("EF").Feed("CD").Feed(Repeat("ABCD", 20));
  EXPECT_EQ(script.learner.period(), period);
  script.Feed("A");
  EXPECT_EQ(script.last.position, 0);
}

TEST(Period, DriftToAnotherLengthIsFollowed) {
  Script script;
  script.Feed(Repeat("ABCD", 50)).Feed(Repeat("ABCDE", 50)).Feed(Repeat("ABE", 50));
  EXPECT_EQ(script.length(), 3);
  EXPECT_EQ(script.deviated, 2);
}

TEST(Period, GrowingSequencesHaveNone) {
  PeriodLearner learner;
  for (uint64_t count = 1; count < 20000; ++count) {
    EXPECT_EQ(learner.Next(count * 0x9e3779b97f4a7c15u).position, -1);
  }
  EXPECT_FALSE(learner.learned());
  EXPECT_EQ(learner.deviations(), 0);
  // A, AB, ABC, ABCD, ...
  PeriodLearner prefixes;
  for (uint64_t length = 1; length < 200; ++length) {
    for (uint64_t call = 1; call <= length; ++call) prefixes.Next(call);
  }
  EXPECT_FALSE(prefixes.learned());
}

TEST(Period, NoiseHasNone) {
  std::mt19937_64 random(1);
  PeriodLearner learner;
  int held = 0;
  for (int i = 0; i < 20000; ++i) held += learner.Next(random() % 50).position >= 0;
  EXPECT_LT(held, 200);
}

TEST(Period, LongPeriodsUpToTheLimit) {
  for (const int length : {100, 1000, 4096}) {
    PeriodLearner learner;
    for (int i = 0; i < 3 * length; ++i) learner.Next(static_cast<uint64_t>(i % length + 1) * 77);
    ASSERT_TRUE(learner.learned()) << length;
    EXPECT_EQ(learner.period().size(), static_cast<size_t>(length));
  }
  PeriodLearner learner;
  for (int i = 0; i < 10 * 6000; ++i) learner.Next(static_cast<uint64_t>(i % 6000 + 1) * 77);
  EXPECT_FALSE(learner.learned());
}

// A network: layers of few different sizes, so that most signatures occur many times in a step.
TEST(Period, OfARealNetworksSizes) {
  std::mt19937_64 random(2);
  std::string step;
  for (int i = 0; i < 161; ++i) step += static_cast<char>('A' + random() % 6);
  Script script;
  script.Feed(Repeat(step, 10));
  EXPECT_EQ(script.length(), 161);
  EXPECT_LE(script.first_learned, 4 * 161);
}

TEST(Period, DependsOnTheSequenceAlone) {
  std::mt19937_64 random(3);
  PeriodLearner one;
  PeriodLearner other;
  for (int i = 0; i < 60000; ++i) {
    // Phases of different periods, with noise in between.
    const uint64_t phase = static_cast<uint64_t>(i) / 997;
    const uint64_t call = random() % 200 == 0 ? random() % 7 : static_cast<uint64_t>(i) % (2 + phase % 11);
    const auto a = one.Next(call * 31 + 1);
    const auto b = other.Next(call * 31 + 1);
    ASSERT_EQ(a.position, b.position);
    ASSERT_EQ(a.event, b.event);
  }
  EXPECT_GT(one.deviations(), 10);
}

}  // namespace
}  // namespace terse::testing
