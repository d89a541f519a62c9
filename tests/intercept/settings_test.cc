// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace terse::intercept {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// What terse_config_show says of `yaml`, with what came from it marked as a file's.
std::string Shown(const std::string& yaml) {
  char* text = nullptr;
  EXPECT_EQ(terse_config_show(yaml.c_str(), 0, &text), TERSE_OK) << terse_last_error();
  std::string shown(text);
  terse_string_free(text);
  return shown;
}

TEST(Settings, SumsStaySumsAndNothingTimesOut) {
  const Settings settings = ParseSettings(Shown("compressor: topk\n"));
  EXPECT_THAT(settings.error, IsEmpty());
  EXPECT_EQ(settings.rules.min_elements, 4096);
  EXPECT_THAT(Shown(settings.yaml), HasSubstr("reduce = sum"));
  EXPECT_THAT(Shown(settings.yaml), HasSubstr("transport.timeout_s = 86400"));
}

// What the file says comes through YAML and back unchanged, lists and patterns too.
TEST(Settings, KeepsWhatTheFileSays) {
  const std::string file =
      "compressor: topk\nmin_elements: 100\nexclude: [\"*.bias\", \"a?b\", \"123\"]\n"
      "topk: {density: 0.02, warmup_density: [0.25, 0.1]}\ntransport: {timeout_s: 7}\nseed: 9\n";
  const Settings settings = ParseSettings(Shown(file));
  EXPECT_THAT(settings.error, IsEmpty());
  EXPECT_EQ(settings.rules.min_elements, 100);
  EXPECT_EQ(Shown(settings.yaml), Shown(file + "reduce: sum\n")) << settings.yaml;
}

TEST(Settings, DgcIsForJobsThatStateTheirMomentum) {
  for (const std::string dgc : {"{job_momentum: 0.95}", "{job_momentum: 0}",
                                "{job_momentum: 0.9, job_nesterov: true, density: 0.01}"}) {
    const std::string file = "method: dgc\ndgc: " + dgc + "\n";
    const Settings settings = ParseSettings(Shown(file));
    EXPECT_THAT(settings.error, IsEmpty());
    EXPECT_EQ(Shown(settings.yaml), Shown(file + "reduce: sum\ntransport: {timeout_s: 86400}\n"));
    EXPECT_THAT(Shown(settings.yaml), HasSubstr("dgc.job_momentum = 0"));
  }
}

TEST(Settings, RefusesWhatAPreloadedJobCannotHave) {
  EXPECT_THAT(ParseSettings(Shown("method: dgc\ncompressor: topk\n")).error,
              AllOf(HasSubstr("method dgc"), HasSubstr("set dgc.job_momentum")));
  EXPECT_THAT(ParseSettings(Shown("method: onebit_adam\ndgc: {job_momentum: 0.9}\n")).error,
              HasSubstr("method onebit_adam"));
  EXPECT_THAT(ParseSettings(Shown("method: onebit_adam\ncompressor: onebit\n")).error,
              HasSubstr("onebit_adam"));
  EXPECT_THAT(ParseSettings(Shown("reduce: mean\n")).error, HasSubstr("MPI_SUM"));
  EXPECT_THAT(ParseSettings(Shown("reduce: sum\n")).error, IsEmpty());
  EXPECT_THAT(ParseSettings(""), ::testing::Field(&Settings::yaml, Not(IsEmpty())));
}

TEST(Settings, SwitchesAreOnOrOffOrWrong) {
  struct Row {
    const char* text;
    bool right;
    bool wanted;
  };
  for (const auto& [text, right, wanted] : std::vector<Row>{{nullptr, true, false},
                                                            {"", true, false},
                                                            {"0", true, false},
                                                            {"false", true, false},
                                                            {"1", true, true},
                                                            {"true", true, true},
                                                            {"yes", false, false},
                                                            {"2", false, false}}) {
    bool on = !wanted;
    EXPECT_EQ(ParseSwitch(text, &on), right) << (text == nullptr ? "not set" : text);
    EXPECT_EQ(on, wanted);
  }
}

}  // namespace
}  // namespace terse::intercept
