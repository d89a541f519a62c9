// SPDX-License-Identifier: Apache-2.0
//
// What the hang forensics say, and the setting that they read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "runtime/intercept/hang/explain.h"
#include "runtime/intercept/hang/watch.h"
#include "tests/intercept/hang_places.h"

namespace terse::intercept {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

Heard From(int rank, Answer answer) {
  return {{rank, "host", 100 + rank}, {Reached::kAnswered, std::move(answer)}};
}
Answer Just(Place here) {
  Answer answer;
  if (here.waits()) answer.waits.push_back(here);
  answer.here = std::move(here);
  return answer;
}

TEST(Explain, NamesWhoHasNotComeAndTheirLastCalls) {
  const Place wait = At(kWorld, 1234, Stage::kInside, Floats(1000), 60);
  Answer elsewhere = Just(At(kWorld, 1233, Stage::kLeft, Floats(1), 50));
  elsewhere.waits.push_back(At(kHalf, 5, Stage::kInside, Floats(2), 40));
  Answer finalize = Just(At(kWorld, 1233, Stage::kFailed, Floats(1), 50));
  finalize.waits.push_back(At({0, kFinalize}, 1, Stage::kInside, {}, 30));
  Answer started;
  started.latest = At(kHalf, 9, Stage::kLeft, Floats(3, Form::kNonblocking), 12.4);
  const std::string text =
      Explain({0, "hostA", 1}, wait, {wait, At(kHalf, 4, Stage::kLeft, Floats(2), 1)},
              {From(1, Just(At(kWorld, 1233, Stage::kLeft, {.count = 1, .type = 1, .op = 0}, 61))),
               From(2, Just(At(kWorld, 1234, Stage::kInside, Floats(1000), 59))),
               From(3, Just(At(kWorld, 1234, Stage::kInside, Floats(1000), 59))),
               From(4, elsewhere),
               From(5, finalize),
               From(6, started),
               {{7, "hostB", 107}, {Reached::kRefused, {}}},
               {{8, "hostB", 108}, {Reached::kSilent, {}}},
               {{9, "hostB", 109}, {Reached::kUnable, {}}}},
              2, Words());
  EXPECT_THAT(text,
              StartsWith("rank 0 (hostA, pid 1) has waited 60 s in call 1234 of world: MPI_Allreduce of 1000 "
                         "MPI_FLOAT (MPI_SUM). Not come: rank 1 (host, pid 101): its last call there is call "
                         "1233 of world, MPI_Allreduce of 1 MPI_DOUBLE (MPI_SUM), left 61 s ago; it is in no "
                         "all-reduce now; rank 4"));
  EXPECT_THAT(
      text,
      HasSubstr("it has waited 40 s in call 5 of the unnamed communicator of 4 ranks (number 3 of them), "
                "MPI_Allreduce of 2 MPI_FLOAT (MPI_SUM), to which rank 0 has not come: they wait for "
                "each other"));
  EXPECT_THAT(
      text,
      HasSubstr("after which MPI_Allreduce of 1 MPI_FLOAT (MPI_SUM) failed 50 s ago; it has waited 30 s "
                "in MPI_Finalize"));
  EXPECT_THAT(
      text, HasSubstr("it has made no call there; its last call of all is call 9 of the unnamed communicator "
                      "of 4 ranks (number 3 of them), MPI_Iallreduce of 3 MPI_FLOAT (MPI_SUM), started 12 s "
                      "ago; it is in no all-reduce now"));
  EXPECT_THAT(text,
              HasSubstr("Not heard of: rank 7 (hostB, pid 107): does not answer, its connection is refused"));
  EXPECT_THAT(text,
              HasSubstr("rank 8 (hostB, pid 108): does not answer (its process may be gone or stopped)"));
  EXPECT_THAT(text, HasSubstr("rank 9 (hostB, pid 109): cannot be asked"));
  EXPECT_THAT(text, HasSubstr("Not asked: 2 ranks. Waiting there too: ranks 2-3."));
  EXPECT_THAT(text, Not(HasSubstr("All ranks have come")));
}

TEST(Explain, NamesCallsThatDoNotMatch) {
  const Place wait = At(kWorld, 4, Stage::kInside, Floats(1000), 60);
  const Signature count = Floats(999);
  const Signature type{.count = 1000, .type = 1, .op = 0};
  const Signature op{.count = 1000, .type = 0, .op = 1};
  for (const Signature& signature : {count, type, op, Floats(1000, Form::kNonblocking)}) {
    const Stage stage = signature.form == Form::kBlocking ? Stage::kInside : Stage::kLeft;
    const std::string text =
        Explain({0, "h", 1}, wait, {wait}, {From(1, Just(At(kWorld, 4, stage, signature, 5)))}, 0, Words());
    EXPECT_THAT(text, AllOf(HasSubstr("Come with another call: rank 1 (host, pid 101): call 4 of world, " +
                                      Describe(signature, Words())),
                            Not(HasSubstr("All ranks have come"))));
  }
  // Another rank may give a derived type for the same elements.
  const Signature derived{.count = 1, .type = kNotPredefined, .op = 0};
  EXPECT_THAT(Explain({0, "h", 1}, wait, {wait}, {From(1, Just(At(kWorld, 4, Stage::kInside, derived, 5)))},
                      0, Words()),
              HasSubstr("All ranks have come with the same call"));
  EXPECT_THAT(Explain({0, "h", 1}, wait, {wait}, {From(1, Just(At(kWorld, 6, Stage::kLeft, Floats(1), 5)))},
                      0, Words()),
              HasSubstr("Gone past it: rank 1 (host, pid 101): its last call is call 6 of world"));
}

TEST(Explain, StaysShort) {
  const Place wait = At(kWorld, 4, Stage::kInside, Floats(1000), 60);
  std::vector<Heard> heard;
  for (int rank = 1; rank < 1000; ++rank) {
    heard.push_back(From(rank, Just(At(kWorld, 3, Stage::kLeft, Floats(rank), 5))));
  }
  const std::string text = Explain({0, "h", 1}, wait, {wait}, heard, 0, Words());
  EXPECT_LT(text.size(), 3000u);
  EXPECT_THAT(text, HasSubstr("; and ranks 9-999."));
}

// Ranks that wait for a nonblocking call: one that has started it has come, whatever it did since.
TEST(Explain, NonblockingCallsHaveComeWhenTheyWereStarted) {
  const Place wait = At(kWorld, 4, Stage::kWaiting, Floats(9, Form::kNonblocking), 60);
  const std::string text =
      Explain({0, "h", 1}, wait, {wait},
              {From(1, Just(At(kWorld, 6, Stage::kLeft, Floats(9, Form::kNonblocking), 5))),
               From(2, Just(At(kWorld, 3, Stage::kLeft, Floats(9, Form::kNonblocking), 5)))},
              0, Words());
  EXPECT_THAT(text, HasSubstr("in MPI_Wait for call 4 of world: MPI_Iallreduce of 9"));
  EXPECT_THAT(text, HasSubstr("Not come: rank 2"));
  EXPECT_THAT(text, HasSubstr("Has started it: rank 1."));
}

TEST(HangAfter, IsASecondsNumber) {
  double seconds = 0;
  EXPECT_TRUE(ParseHangAfter(nullptr, &seconds));
  EXPECT_EQ(seconds, kDefaultHangAfter);
  EXPECT_TRUE(ParseHangAfter("0", &seconds));
  EXPECT_EQ(seconds, 0);
  EXPECT_TRUE(ParseHangAfter("1.5", &seconds));
  EXPECT_EQ(seconds, 1.5);
  for (const char* wrong : {"", "-1", "nan", "inf", "1e9", "5 ", "5s", "off"}) {
    EXPECT_FALSE(ParseHangAfter(wrong, &seconds)) << wrong;
    EXPECT_EQ(seconds, kDefaultHangAfter);
  }
}

}  // namespace
}  // namespace terse::intercept
