// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/settings.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

template <typename Body>
ExitCode CodeOf(const Body& body) {
  try {
    body();
  } catch (const CommandError& error) {
    return error.code();
  }
  return kSuccess;
}

TEST(ParseSetting, SplitsAtTheFirstEquals) {
  EXPECT_EQ(ParseSetting("topk.density=0.01"), (Setting{"topk.density", "0.01"}));
  EXPECT_EQ(ParseSetting(" a = b=c "), (Setting{"a", "b=c"}));
  EXPECT_EQ(ParseSetting("exclude="), (Setting{"exclude", ""}));
}

TEST(ParseSetting, RefusesWhatIsNone) {
  for (const char* text : {"", "topk", "=1", "  =1"}) {
    EXPECT_EQ(CodeOf([text] { ParseSetting(text); }), kUsage) << text;
  }
}

TEST(ParseCase, TakesNameAndSettings) {
  const BenchCase named = ParseCase("topk 1 %: compressor=topk, topk.density=0.01");
  EXPECT_EQ(named.name, "topk 1 %");
  EXPECT_EQ(named.settings, (std::vector<Setting>{{"compressor", "topk"}, {"topk.density", "0.01"}}));

  const BenchCase unnamed = ParseCase("compressor=fp16");
  EXPECT_EQ(unnamed.name, "compressor=fp16");
  EXPECT_EQ(unnamed.settings, (std::vector<Setting>{{"compressor", "fp16"}}));
}

TEST(ParseCase, ListsNeedNoQuotes) {
  EXPECT_EQ(ParseCase("method=dgc,dgc.warmup_density=0.25,0.06,dgc.momentum=0.8").settings,
            (std::vector<Setting>{
                {"method", "dgc"}, {"dgc.warmup_density", "0.25,0.06"}, {"dgc.momentum", "0.8"}}));
}

TEST(ParseCase, RefusesWhatIsNone) {
  for (const char* text : {"", "topk", "name:", "name: topk"}) {
    EXPECT_EQ(CodeOf([text] { ParseCase(text); }), kUsage) << text;
  }
}

TEST(ParseElements, TakesPowersOfTen) {
  EXPECT_EQ(ParseElements("1"), 1);
  EXPECT_EQ(ParseElements("16384"), 16384);
  EXPECT_EQ(ParseElements("16K"), 16'000);
  EXPECT_EQ(ParseElements("25.6M"), 25'600'000);
  EXPECT_EQ(ParseElements("1.1g"), 1'100'000'000);
}

TEST(ParseElements, RefusesWhatIsNoNumberOfElements) {
  for (const char* text : {"", "0", "-1", "K", "1.5", "1.0001K", "16KB", "nan", "inf", "1e300", "0x10"}) {
    EXPECT_EQ(CodeOf([text] { ParseElements(text); }), kUsage) << text;
  }
}

TEST(ParseConfigShow, TakesKeyValueAndOrigin) {
  const std::vector<ConfigLine> lines =
      ParseConfigShow("method = allreduce  # default\nexclude = [a=b, *#]  # file\nseed = 3\n");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].key, "method");
  EXPECT_EQ(lines[0].value, "allreduce");
  EXPECT_EQ(lines[0].origin, "default");
  EXPECT_EQ(lines[1].value, "[a=b, *#]");
  EXPECT_EQ(lines[1].origin, "file");
  EXPECT_EQ(lines[2].value, "3");
  EXPECT_EQ(lines[2].origin, "");
}

TEST(ResolveConfig, SettingsGoOverTheEnvironmentAndLeaveItAlone) {
  setenv("TERSE_SEED", "5", 1);
  const auto seed = [](const std::vector<Setting>& settings) {
    return FindLine(ResolveConfig("", settings), "seed");
  };
  EXPECT_EQ(seed({}).value, "5");
  EXPECT_EQ(seed({}).origin, "environment");
  EXPECT_EQ(seed({{"seed", "7"}}).value, "7");
  EXPECT_EQ(seed({{"seed", "7"}}).origin, "flag");
  EXPECT_EQ(seed({{"seed", "7"}, {"seed", "8"}}).value, "8");
  EXPECT_STREQ(getenv("TERSE_SEED"), "5");
  unsetenv("TERSE_SEED");
  EXPECT_EQ(seed({{"seed", "7"}}).value, "7");
  EXPECT_EQ(getenv("TERSE_SEED"), nullptr);
}

TEST(ResolveConfig, RefusesAKeyThatOnlyTheEnvironmentWouldSpellSo) {
  // TERSE_TOPK_DENSITY is a setting's name, topk_density is none.
  EXPECT_EQ(CodeOf([] { ResolveConfig("", {{"topk_density", "0.1"}}); }), kConfigInvalid);
}

TEST(ResolveConfig, NamesTheFlagAndNotTheVariable) {
  try {
    ResolveConfig("", {{"topk.density", "7"}});
    FAIL() << "accepted";
  } catch (const CommandError& error) {
    EXPECT_EQ(error.code(), kConfigInvalid);
    EXPECT_NE(std::string(error.what()).find("--set topk.density=7"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace terse::cli
