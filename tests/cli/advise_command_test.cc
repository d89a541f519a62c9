// SPDX-License-Identifier: Apache-2.0
//
// The advice on a report, under configurations that let calls take part by their names or keep them out.
#include "runtime/cli/advise_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace terse::testing {
namespace {

using namespace cli;  // NOLINT: the names of the unit under test
using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Json Site(int position, int count, const std::string& tensor, int calls) {
  const bool compress = !tensor.empty();
  return {{"position", position},
          {"count", count},
          {"type", "MPI_FLOAT"},
          {"op", "MPI_SUM"},
          {"bytes", 4 * count},
          {"binding", "C"},
          {"form", "blocking"},
          {"calls", calls},
          {"mean_us", 1.0},
          {"tensor", tensor.empty() ? Json() : Json(tensor)},
          {"compress", compress},
          {"reason", compress ? "position" : "too small"},
          {"doubts", compress ? Json::array({"seen rarely"}) : Json::array()}};
}

// Two gradients of a job, one with a twin, and a call that is none.
std::string Report() {
  const Json world = {{"name", "MPI_COMM_WORLD"},
                      {"size", 4},
                      {"sites",
                       {Site(0, 70000, "MPI_FLOAT.70000.0", 17), Site(1, 5000, "MPI_FLOAT.5000.0", 17),
                        Site(2, 5000, "MPI_FLOAT.5000.1", 17), Site(3, 10, "", 17)}}};
  return Json{{"report", 1},
              {"program", "train"},
              {"mpi", "MPI"},
              {"world_size", 4},
              {"ranks", {0, 1, 2, 3}},
              {"intercepted", {{"calls", 272}}},
              {"communicators", Json::array({world})},
              {"warnings", Json::array()}}
      .dump();
}

std::vector<ConfigLine> ConfigOf(const std::string& include, const std::string& exclude) {
  return ResolveConfig("", {{"compressor", "onebit"}, {"include", include}, {"exclude", exclude}});
}

std::vector<std::string> Compressed(const Json& advice) {
  std::vector<std::string> names;
  for (const Json& row : advice.at("compress")) names.push_back(row.at("tensor"));
  return names;
}

TEST(Advise, TakesEveryGradientWhereNoPatternIsInTheWay) {
  const Json advice = Json::parse(Advise(Report(), ConfigOf("*", "*.bias")));
  EXPECT_THAT(Compressed(advice), ElementsAre("MPI_FLOAT.70000.0", "MPI_FLOAT.5000.0", "MPI_FLOAT.5000.1"));
  EXPECT_EQ(advice.at("exact").size(), 1u);
  EXPECT_EQ(advice.at("period").at("dense_bytes"), 1.5 * 4 * 80000);
}

TEST(Advise, LeavesOutWhatIsExcludedAndSaysByWhich) {
  const std::string text = Advise(Report(), ConfigOf("*", "*.bias,MPI_FLOAT.5000.?"));
  const Json advice = Json::parse(text);
  EXPECT_THAT(Compressed(advice), ElementsAre("MPI_FLOAT.70000.0"));
  EXPECT_EQ(advice.at("period").at("dense_bytes"), 1.5 * 4 * 70000);
  ASSERT_EQ(advice.at("exact").size(), 3u);
  const Json& row = advice.at("exact").at(1);
  EXPECT_EQ(row.at("tensor"), "MPI_FLOAT.5000.1");
  EXPECT_EQ(row.at("compress"), false);
  EXPECT_EQ(row.at("reason"), "excluded by \"MPI_FLOAT.5000.?\"");
  EXPECT_THAT(row.at("doubts"), IsEmpty());
  // What the library saw stays what it was.
  EXPECT_EQ(advice.at("report"), Json::parse(Report()));
  const std::string words = FormatAdvice(text);
  EXPECT_THAT(words,
              AllOf(HasSubstr("  17 calls, 340 KB: MPI_FLOAT.5000.0: excluded by \"MPI_FLOAT.5000.?\"\n"),
                    HasSubstr("  17 calls, 340 KB: MPI_FLOAT.5000.1: excluded by \"MPI_FLOAT.5000.?\"\n"),
                    HasSubstr("  17 calls, 680 B: too small\n"), HasSubstr("MPI_FLOAT.70000.0, at 0")));
}

TEST(Advise, TakesOnlyWhatIsIncluded) {
  const std::string text = Advise(Report(), ConfigOf("MPI_FLOAT.70000.*,other", "*.bias"));
  EXPECT_THAT(Compressed(Json::parse(text)), ElementsAre("MPI_FLOAT.70000.0"));
  EXPECT_THAT(FormatAdvice(text), HasSubstr("MPI_FLOAT.5000.1: no pattern of include matches its name"));
  // A pattern is of whole names.
  EXPECT_THAT(Compressed(Json::parse(Advise(Report(), ConfigOf("MPI_FLOAT", "*.bias")))), IsEmpty());
}

TEST(Advise, SaysSoWhereNothingIsLeft) {
  const std::string words = FormatAdvice(Advise(Report(), ConfigOf("*", "MPI_FLOAT.*")));
  EXPECT_THAT(words, AllOf(HasSubstr("Nothing would be compressed."), Not(HasSubstr("In a period"))));
}

}  // namespace
}  // namespace terse::testing
