// SPDX-License-Identifier: Apache-2.0
//
// What is counted of a communicator's calls, and what would be compressed of them.
#include "runtime/intercept/traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/wire/config.h"
#include "runtime/intercept/eligibility.h"

namespace terse::testing {
namespace {

using namespace intercept;  // NOLINT: the names of the unit under test
using ::testing::HasSubstr;
using ::testing::IsEmpty;

enum Types : int16_t { kFloat, kDouble, kInt };
enum Ops : int16_t { kSum, kMax };

Vocabulary Words() {
  using Kind = Vocabulary::TypeKind;
  return {.types = {{"MPI_FLOAT", Kind::kReal}, {"MPI_DOUBLE", Kind::kReal}, {"MPI_INT", Kind::kOther}},
          .ops = {"MPI_SUM", "MPI_MAX"},
          .sum = kSum};
}

Signature Sum(int64_t count, int16_t type = kFloat) {
  return {.count = count, .type_size = type == kDouble ? 8 : 4, .type = type, .op = kSum};
}

CommunicatorFacts Facts() { return {.name = "", .size = 4, .members = 7, .inter = false}; }

TEST(Traffic, CountsPositionsAndTheRestApart) {
  Traffic traffic;
  for (int step = 0; step < 10; ++step) {
    EXPECT_EQ(traffic.Record(Sum(100), Binding::kC, 5), step < 3 ? -1 : 0);
    EXPECT_EQ(traffic.Record(Sum(200), Binding::kMpifH, 7), step < 3 ? -1 : 1);
  }
  const std::vector<Site> sites = traffic.Sites();
  ASSERT_EQ(sites.size(), 4u);
  EXPECT_EQ(sites[0].position, 0);
  EXPECT_EQ(sites[0].signature, Sum(100));
  EXPECT_EQ(sites[0].tally.calls, 7);
  EXPECT_EQ(sites[0].tally.ticks, 35);
  EXPECT_EQ(sites[1].position, 1);
  EXPECT_EQ(sites[1].binding, Binding::kMpifH);
  EXPECT_EQ(sites[2].position, -1);
  EXPECT_EQ(sites[2].tally.calls, 3);
  EXPECT_EQ(sites[3].tally.calls, 3);
}

TEST(Traffic, NoCallIsLostWhenThePeriodChanges) {
  Traffic traffic;
  int64_t calls = 0;
  for (const auto& [length, steps] : {std::pair{3, 50}, {2, 40}, {3, 9}, {7, 30}}) {
    for (int step = 0; step < steps; ++step) {
      for (int call = 0; call < length; ++call, ++calls) traffic.Record(Sum(10 + call), Binding::kC, 1);
    }
  }
  int64_t counted = traffic.other().calls;
  for (const Site& site : traffic.Sites()) counted += site.tally.calls;
  EXPECT_EQ(counted, calls);
  EXPECT_EQ(traffic.period().period().size(), 7u);
}

TEST(Traffic, IsBoundedInMemory) {
  Traffic traffic;
  for (int i = 0; i < 20000; ++i) traffic.Record(Sum(i), Binding::kC, 2);
  EXPECT_EQ(traffic.Sites().size(), Traffic::kMostSites);
  EXPECT_EQ(traffic.other().calls, 20000 - static_cast<int64_t>(Traffic::kMostSites));
}

CommunicatorRecord RecordOf(int calls, int64_t count, uint64_t members = 7) {
  Traffic traffic;
  for (int i = 0; i < calls; ++i) traffic.Record(Sum(count), Binding::kC, 1);
  CommunicatorFacts facts = Facts();
  facts.members = members;
  return MakeRecord(facts, traffic);
}

TEST(Ledger, JoinsCommunicatorsOfTheSameRanksThatDidTheSame) {
  Ledger ledger;
  for (int i = 0; i < 100; ++i) ledger.Add(RecordOf(2, 50));
  ledger.Add(RecordOf(2, 60));
  ledger.Add(RecordOf(2, 50, /*members=*/8));
  ledger.Add(RecordOf(0, 50));
  ASSERT_EQ(ledger.records().size(), 3u);
  EXPECT_EQ(ledger.records()[0].instances, 100);
  EXPECT_EQ(ledger.records()[0].sites[0].tally.calls, 200);
}

TEST(Ledger, IsBoundedInMemory) {
  Ledger ledger;
  for (int i = 0; i < 3000; ++i) ledger.Add(RecordOf(2, i));
  EXPECT_EQ(ledger.records().size(), Ledger::kMostRecords);
  EXPECT_EQ(ledger.other_instances(), 3000 - static_cast<int64_t>(Ledger::kMostRecords));
  EXPECT_EQ(ledger.other().calls, 2 * ledger.other_instances());
}

class EligibilityTest : public ::testing::Test {
 protected:
  Verdict Of(Signature signature) {
    const Site site{signature, Binding::kC, position_, {100, 0}};
    return Judge(record_, site, Words(), rules_);
  }
  EligibilityTest() {
    record_.facts = Facts();
    record_.period = 5;
  }
  CommunicatorRecord record_;
  Rules rules_;
  int32_t position_ = 2;
};

TEST_F(EligibilityTest, LargePeriodicSumsOfFloats) {
  EXPECT_TRUE(Of(Sum(4096)).compress);
  EXPECT_THAT(Of(Sum(4096)).reason, HasSubstr("position 2 of a period of 5"));
}

TEST_F(EligibilityTest, WhatIsAskedFor) {
  rules_.doubles = true;
  EXPECT_TRUE(Of(Sum(4096, kDouble)).compress);
  Signature nonblocking = Sum(4096);
  nonblocking.form = Form::kNonblocking;
  EXPECT_THAT(Of(nonblocking).reason, HasSubstr("MPI_THREAD_MULTIPLE"));
  record_.facts.threads = true;
  EXPECT_TRUE(Of(nonblocking).compress);
}

TEST_F(EligibilityTest, EverythingElseStaysExactAndSaysWhy) {
  const auto reason = [&](const Signature& signature) {
    const Verdict verdict = Of(signature);
    EXPECT_FALSE(verdict.compress) << verdict.reason;
    return verdict.reason;
  };
  EXPECT_THAT(reason(Sum(4095)), HasSubstr("fewer than min_elements"));
  EXPECT_THAT(reason(Sum(9999, kDouble)), HasSubstr("double precision"));
  EXPECT_THAT(reason(Sum(9999, kInt)), HasSubstr("MPI_INT"));
  Signature other = Sum(9999);
  other.op = kMax;
  EXPECT_THAT(reason(other), HasSubstr("MPI_MAX"));
  other.op = kNotPredefined;
  EXPECT_THAT(reason(other), HasSubstr("own"));
  other = Sum(9999);
  other.type = kNotPredefined;
  EXPECT_THAT(reason(other), HasSubstr("derived"));
  // Fortran's REAL in a program that was compiled with wide reals.
  other = Sum(9999);
  other.type_size = 8;
  EXPECT_THAT(reason(other), HasSubstr("double precision"));
  position_ = -1;
  EXPECT_THAT(reason(Sum(9999)), HasSubstr("outside the period"));
  record_.period = 0;
  EXPECT_THAT(reason(Sum(9999)), HasSubstr("no period"));
  position_ = 2;
  record_.facts.size = 1;
  EXPECT_THAT(reason(Sum(9999)), HasSubstr("alone"));
  record_.facts.inter = true;
  EXPECT_THAT(reason(Sum(9999)), HasSubstr("intercommunicator"));
}

TEST_F(EligibilityTest, DoubtsWhatLooksLikeAnAverageOfWeights) {
  record_.sites = {{Sum(9999), Binding::kC, 0, {100, 0}},
                   {Sum(5000), Binding::kC, 1, {100, 0}},
                   {Sum(9999), Binding::kC, 2, {100, 0}},
                   {Sum(8000), Binding::kC, 3, {4, 0}}};
  EXPECT_THAT(Doubts(record_, record_.sites[0]), ::testing::ElementsAre(HasSubstr("position 2")));
  EXPECT_THAT(Doubts(record_, record_.sites[1]), IsEmpty());
  EXPECT_THAT(Doubts(record_, record_.sites[3]), ::testing::ElementsAre(HasSubstr("4 times")));
}

// What is decided before a call is what the report says of it afterwards.
TEST_F(EligibilityTest, IsTheSameBeforeACall) {
  for (const int count : {4095, 4096}) {
    for (const int16_t type : std::initializer_list<int16_t>{kFloat, kDouble, kInt, kNotPredefined}) {
      for (const int16_t op : std::initializer_list<int16_t>{kSum, kMax, kNotPredefined}) {
        for (const Form form : {Form::kBlocking, Form::kNonblocking, Form::kPersistent}) {
          for (const int size : {1, 4}) {
            for (const int bits : {0, 1, 2, 3, 4, 5, 6, 7}) {
              const bool inter = (bits & 1) != 0;
              record_.facts.threads = (bits & 2) != 0;
              rules_.doubles = (bits & 4) != 0;
              Signature signature = Sum(count, type);
              signature.op = op;
              signature.form = form;
              record_.facts.size = size;
              record_.facts.inter = inter;
              EXPECT_EQ(MayCompress(signature, record_.facts, Words(), rules_), Of(signature).compress)
                  << Of(signature).reason;
            }
          }
        }
      }
    }
  }
}

TEST(Ledger, AddsUpWhatWasCompressed) {
  Ledger ledger;
  for (int i = 1; i <= 3; ++i) {
    CommunicatorRecord record = RecordOf(2, 50);
    record.compressed_calls = i;
    record.group = "{}";
    ledger.Add(std::move(record));
  }
  ASSERT_EQ(ledger.records().size(), 1u);
  EXPECT_EQ(ledger.records()[0].compressed_calls, 6);
}

TEST(Eligibility, HasTheConfigurationsDefault) {
  EXPECT_EQ(kDefaultMinElements, wire::Config{}.min_elements);
}

}  // namespace
}  // namespace terse::testing
