// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/config_values.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace terse::wire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr NumberRange kFraction = {.above_low = true, .high = 1.0};
constexpr NumberRange kDecay = {.high = 1.0, .below_high = true};

std::string Message(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(ConfigValues, NumbersWithinTheirBounds) {
  double value = 0.0;
  EXPECT_TRUE(ParseNumber("0.25", kFraction, &value).ok());
  EXPECT_EQ(value, 0.25);
  EXPECT_TRUE(ParseNumber("1", kFraction, &value).ok());
  EXPECT_EQ(value, 1.0);
  EXPECT_TRUE(ParseNumber("1e-8", kFraction, &value).ok());
  EXPECT_EQ(value, 1e-8);
  EXPECT_TRUE(ParseNumber("0", kDecay, &value).ok());
  EXPECT_EQ(value, 0.0);
  EXPECT_FALSE(ParseNumber("0", kFraction, &value).ok());
  EXPECT_FALSE(ParseNumber("1.0000000000000002", kFraction, &value).ok());
  EXPECT_FALSE(ParseNumber("1", kDecay, &value).ok());
  EXPECT_FALSE(ParseNumber("-1e-300", kDecay, &value).ok());
  EXPECT_EQ(value, 0.0);
}

TEST(ConfigValues, NumbersAreFiniteAndTheWholeText) {
  double value = 0.5;
  for (const char* text : {"", " ", "0.1 ", " 0.1", "0.1x", "0,1", "nan", "inf", "-inf", "1e999", "0x1",
                           "0.1.2", "1e", "--1", "+0.5", "half"}) {
    EXPECT_THAT(Message(ParseNumber(text, {}, &value)), HasSubstr("must be a number")) << text;
  }
  EXPECT_EQ(value, 0.5);
}

TEST(ConfigValues, NumberTextReadsBackToTheSameBits) {
  for (const double value : {0.0, 0.1, 0.01, 0.015625, 1e-8, 1.0 / 3.0, 5e-324, 1.7976931348623157e308}) {
    double back = -1.0;
    ASSERT_TRUE(ParseNumber(NumberText(value), {}, &back).ok()) << NumberText(value);
    EXPECT_EQ(back, value);
  }
  EXPECT_EQ(NumberText(0.01), "0.01");
}

TEST(ConfigValues, Integers) {
  constexpr IntegerRange kBlock = {.low = 16, .high = 64, .multiple = 16, .other = -1};
  int64_t value = 7;
  for (const char* text : {"", "15", "17", "80", "0", "-2", "16.0", "1e2", "0x10", " 16", "16 ", "sixteen",
                           "9223372036854775808", "99999999999999999999999"}) {
    EXPECT_EQ(Message(ParseInteger(text, kBlock, &value)),
              "must be an integer, 16 to 64, a multiple of 16, or -1");
  }
  EXPECT_EQ(value, 7);
  EXPECT_TRUE(ParseInteger("32", kBlock, &value).ok());
  EXPECT_EQ(value, 32);
  EXPECT_TRUE(ParseInteger("-1", kBlock, &value).ok());
  EXPECT_EQ(value, -1);
  EXPECT_TRUE(ParseInteger("9223372036854775807", {}, &value).ok());
  EXPECT_EQ(value, std::numeric_limits<int64_t>::max());
}

TEST(ConfigValues, Booleans) {
  for (const char* text : {"true", "True", "TRUE", "1", "yes", "on"}) {
    bool value = false;
    EXPECT_TRUE(ParseBoolean(text, &value).ok()) << text;
    EXPECT_TRUE(value) << text;
  }
  for (const char* text : {"false", "False", "0", "no", "off"}) {
    bool value = true;
    EXPECT_TRUE(ParseBoolean(text, &value).ok()) << text;
    EXPECT_FALSE(value) << text;
  }
  bool value = true;
  for (const char* text : {"", "2", "y", "tru", "true "}) {
    EXPECT_THAT(Message(ParseBoolean(text, &value)), HasSubstr("true or false"));
  }
  EXPECT_TRUE(value);
}

TEST(ConfigValues, ChoicesListThemselves) {
  constexpr std::string_view kChoices[] = {"a", "b"};
  size_t index = 9;
  EXPECT_EQ(Message(ParseChoice("c", kChoices, &index)), "must be one of a | b");
  EXPECT_FALSE(ParseChoice("", kChoices, &index).ok());
  EXPECT_EQ(index, 9u);
  EXPECT_TRUE(ParseChoice("b", kChoices, &index).ok());
  EXPECT_EQ(index, 1u);
}

TEST(ConfigValues, Words) {
  std::string word = "kept";
  for (const std::string& text : {std::string(), std::string("a b"), std::string("a\n"), std::string("\0", 1),
                                  std::string("caf\xc3\xa9"), std::string(256, 'a')}) {
    EXPECT_FALSE(ParseWord(text, &word).ok()) << text;
  }
  EXPECT_EQ(word, "kept");
  EXPECT_TRUE(ParseWord("Suite/Test.7:a", &word).ok());
  EXPECT_EQ(word, "Suite/Test.7:a");
}

TEST(ConfigValues, Paths) {
  std::string path = "kept";
  for (const std::string& text :
       {std::string("a\nb"), std::string("\0", 1), std::string("\x7f"), std::string(4096, 'a')}) {
    EXPECT_FALSE(ParsePath(text, &path).ok()) << text;
  }
  EXPECT_EQ(path, "kept");
  for (const std::string& text :
       {std::string("/tmp/a folder/caf\xc3\xa9"), std::string(4095, 'a'), std::string()}) {
    EXPECT_TRUE(ParsePath(text, &path).ok()) << text;
    EXPECT_EQ(path, text);
  }
}

TEST(ConfigValues, NumberLists) {
  std::vector<double> values = {0.5};
  for (const char* text : {"[0.25, 0.0625]", "0.25,0.0625", " [ 0.25 ,0.0625 ] ", "[\"0.25\", '0.0625']"}) {
    ASSERT_TRUE(ParseNumbers(text, kFraction, &values).ok()) << text;
    EXPECT_THAT(values, ElementsAre(0.25, 0.0625));
  }
  EXPECT_EQ(NumbersText(values), "[0.25, 0.0625]");
  EXPECT_EQ(Message(ParseNumbers("[0.25, 2]", kFraction, &values)),
            "must be a list of numbers, each 0 < x <= 1; not so: \"2\"");
  for (const char* text : {"[0.25", "0.25]", "[0.25,,0.1]", "[0.25,]", ",", "[[0.25]]", "0.25 0.1"}) {
    EXPECT_FALSE(ParseNumbers(text, kFraction, &values).ok()) << text;
  }
  EXPECT_FALSE(ParseNumbers(std::string(70000, ' '), kFraction, &values).ok());
  EXPECT_THAT(values, ElementsAre(0.25, 0.0625));
  for (const char* text : {"", "[]", " [ ] "}) {
    values = {0.5};
    ASSERT_TRUE(ParseNumbers(text, kFraction, &values).ok()) << text;
    EXPECT_THAT(values, IsEmpty());
  }
  EXPECT_EQ(NumbersText(values), "[]");
}

TEST(ConfigValues, PatternLists) {
  std::vector<std::string> patterns;
  for (const char* text : {"[*.bias, *norm*]", "*.bias,*norm*", "[\"*.bias\", '*norm*']"}) {
    ASSERT_TRUE(ParsePatterns(text, &patterns).ok()) << text;
    EXPECT_THAT(patterns, ElementsAre("*.bias", "*norm*"));
  }
  EXPECT_EQ(PatternsText(patterns), "[*.bias, *norm*]");
  for (const char* text : {"a b", "[a,,b]", "a[0-9]", "\"a", "''", "{a}"}) {
    EXPECT_THAT(Message(ParsePatterns(text, &patterns)), HasSubstr("not so: ")) << text;
  }
}

TEST(ConfigValues, WordsForRanges) {
  EXPECT_EQ(Words(kFraction), "0 < x <= 1");
  EXPECT_EQ(Words(kDecay), "0 <= x < 1");
  EXPECT_EQ(Words(NumberRange{}), "x >= 0");
  EXPECT_EQ(Words(NumberRange{.above_low = true}), "x > 0");
  EXPECT_EQ(Words(IntegerRange{}), "n >= 0");
  EXPECT_EQ(Words(IntegerRange{.low = 1, .high = 8}), "1 to 8");
}

TEST(ConfigValues, NearestCountsEdits) {
  constexpr std::string_view kNames[] = {"topk.density", "dgc.density", "dgc.momentum", "seed"};
  EXPECT_EQ(Nearest("topk.densty", kNames), "topk.density");
  EXPECT_EQ(Nearest("dcg.density", kNames), "dgc.density");
  EXPECT_EQ(Nearest("momentum", kNames), "dgc.momentum");
  EXPECT_EQ(Nearest("density", kNames), "topk.density");
  EXPECT_EQ(Nearest("sed", kNames), "seed");
  EXPECT_EQ(Nearest("", kNames), "seed");
  EXPECT_EQ(Nearest(std::string(1 << 20, 'x'), kNames), Nearest(std::string(64, 'x'), kNames));
}

TEST(ConfigValues, QuotedIsShortAndPrintable) {
  EXPECT_EQ(Quoted("a\n\"b\x01"), "\"a\\n\\\"b\\x01\"");
  EXPECT_EQ(Quoted(std::string(1000, 'a')), "\"" + std::string(120, 'a') + "\"...");
}

}  // namespace
}  // namespace terse::wire
