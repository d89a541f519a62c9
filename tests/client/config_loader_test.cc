// SPDX-License-Identifier: Apache-2.0
#include "runtime/client/config_loader.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace terse::client {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;
using wire::Config;
using wire::Origin;
using wire::Settings;

Settings Loaded(const std::string& yaml, const std::vector<std::string>& environment = {}) {
  const absl::StatusOr<Settings> settings = LoadSettings(yaml.c_str(), environment);
  EXPECT_TRUE(settings.ok()) << settings.status();
  return settings.ok() ? *settings : Settings();
}

std::string Refusal(const std::string& yaml, const std::vector<std::string>& environment = {}) {
  const absl::StatusOr<Settings> settings = LoadSettings(yaml.c_str(), environment);
  EXPECT_EQ(settings.status().code(), absl::StatusCode::kInvalidArgument) << yaml;
  return std::string(settings.status().message());
}

// A file of this test's own, gone when the test is over.
class File {
 public:
  explicit File(const std::string& text)
      : path_(absl::StrCat(testing::TempDir(), "terse_",
                           testing::UnitTest::GetInstance()->current_test_info()->name(), "_", getpid(),
                           ".yaml")) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }
  std::string variable() const { return absl::StrCat("TERSE_CONFIG=", path_); }

 private:
  const std::string path_;
};

TEST(ConfigLoader, NothingGivesTheDefaults) {
  for (const char* yaml : {"", "\n\n", "# only a comment\n", "---\n", "--- # nothing\n...\n", "{}"}) {
    const Settings settings = Loaded(yaml);
    EXPECT_TRUE(settings.config() == Config()) << yaml;
    EXPECT_EQ(settings.origin("seed"), Origin::kDefault);
  }
  const absl::StatusOr<Settings> settings = LoadSettings(nullptr, {});
  ASSERT_TRUE(settings.ok());
  EXPECT_TRUE(settings->config() == Config());
}

TEST(ConfigLoader, ReadsEveryKindOfValue) {
  const Settings settings = Loaded(R"(
# A comment.
method: dgc
error_feedback: yes
exclude: ["*.bias", "embedding.?", attention.*, '*norm*']
dgc:
  density: 1.0e-3
  warmup_steps: 100
  warmup_density:
    - 0.25
    - 0.05
topk: {density: .5, index: "u32"}
transport:
  hub: a/b:c
seed: 42
)");
  const Config& config = settings.config();
  EXPECT_EQ(config.method, wire::Method::kDgc);
  EXPECT_TRUE(config.error_feedback);
  EXPECT_THAT(config.exclude, ElementsAre("*.bias", "embedding.?", "attention.*", "*norm*"));
  EXPECT_EQ(config.dgc.density, 0.001);
  EXPECT_EQ(config.dgc.warmup_steps, 100);
  EXPECT_THAT(config.dgc.warmup_density, ElementsAre(0.25, 0.05));
  EXPECT_EQ(config.topk.density, 0.5);
  EXPECT_EQ(config.topk.index, wire::IndexCoding::kU32);
  EXPECT_EQ(config.transport.hub, "a/b:c");
  EXPECT_EQ(config.seed, 42);
  EXPECT_EQ(settings.origin("dgc.density"), Origin::kFile);
  EXPECT_EQ(settings.origin("dgc.momentum"), Origin::kDefault);
}

TEST(ConfigLoader, ListsMayBeEmptyOrOneElement) {
  EXPECT_THAT(Loaded("exclude: []").config().exclude, IsEmpty());
  EXPECT_THAT(Loaded("exclude: a.*").config().exclude, ElementsAre("a.*"));
  EXPECT_THAT(Loaded("exclude: \"a, b\"").config().exclude, ElementsAre("a", "b"));
}

// What Settings::Show prints can be written down as YAML with dots.
TEST(ConfigLoader, TakesPathsWithDots) {
  EXPECT_EQ(Loaded("topk.density: 0.5").config().topk.density, 0.5);
  EXPECT_THAT(Refusal("topk.density: 0.5\ntopk: {density: 0.5}"),
              HasSubstr("line 2, column 8: key \"topk.density\" is doubled; it was first set in line 1"));
}

TEST(ConfigLoader, EnvironmentGoesOverYaml) {
  const Settings settings = Loaded("seed: 1\nmethod: dgc", {"TERSE_SEED=2", "HOME=/root"});
  EXPECT_EQ(settings.config().seed, 2);
  EXPECT_EQ(settings.origin("seed"), Origin::kEnvironment);
  EXPECT_EQ(settings.config().method, wire::Method::kDgc);
  EXPECT_EQ(settings.origin("method"), Origin::kFile);
  EXPECT_EQ(Refusal("seed: 1", {"TERSE_SEDE=2"}),
            "unknown environment variable \"TERSE_SEDE\"; did you mean \"TERSE_SEED\"?");
}

TEST(ConfigLoader, TextGoesBeforeTheFile) {
  const File file("seed: 7\n");
  const absl::StatusOr<Settings> settings = LoadSettings(nullptr, {file.variable()});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->config().seed, 7);
  EXPECT_EQ(settings->origin("seed"), Origin::kFile);
  EXPECT_EQ(Loaded("method: dgc", {file.variable()}).config().seed, 0);
}

TEST(ConfigLoader, FilesThatCannotBeReadAreNotFound) {
  for (const char* path : {"/nonexistent/terse.yaml", "/"}) {
    const absl::StatusOr<Settings> settings = LoadSettings(nullptr, {absl::StrCat("TERSE_CONFIG=", path)});
    EXPECT_EQ(settings.status().code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(settings.status().message()), AllOf(HasSubstr(path), HasSubstr("TERSE_CONFIG")));
  }
  EXPECT_TRUE(LoadSettings(nullptr, {"TERSE_CONFIG="}).ok());
}

TEST(ConfigLoader, ErrorsNameFileLineColumnKeyAndWhatIsAllowed) {
  const File file("method: dgc\ntopk:\n  density: 2\n");
  const absl::StatusOr<Settings> settings = LoadSettings(nullptr, {file.variable()});
  EXPECT_EQ(settings.status().message(),
            absl::StrCat(file.path(),
                         ", line 3, column 12: topk.density: \"2\" is not allowed; it must be a "
                         "number x, 0 < x <= 1"));
}

TEST(ConfigLoader, UnknownKeysNameTheNearest) {
  EXPECT_EQ(Refusal("compresor: topk"),
            "configuration text, line 1, column 1: unknown key \"compresor\"; did you mean \"compressor\"?");
  EXPECT_EQ(
      Refusal("topk:\n  densty: 0.1"),
      "configuration text, line 2, column 3: unknown key \"topk.densty\"; did you mean \"topk.density\"?");
  EXPECT_THAT(Refusal("quantise: {bits: 4}"), HasSubstr("did you mean \"quantize\"?"));
  EXPECT_THAT(Refusal("density: 0.1"), HasSubstr("did you mean \"topk.density\"?"));
  EXPECT_THAT(Refusal("topk: {topk.density: 1}"), HasSubstr("unknown key \"topk.topk.density\""));
  EXPECT_THAT(Refusal("<<: {seed: 1}"), HasSubstr("unknown key \"<<\""));
}

TEST(ConfigLoader, DoubledKeysAreRefused) {
  EXPECT_EQ(Refusal("seed: 1\nmethod: dgc\nseed: 1"),
            "configuration text, line 3, column 1: key \"seed\" is doubled; it was first set in line 1");
  EXPECT_THAT(Refusal("topk: {density: 0.1, density: 0.1}"), HasSubstr("\"topk.density\" is doubled"));
  EXPECT_THAT(Refusal("topk: {density: 0.1}\ntopk: {index: u32}"), HasSubstr("\"topk\" is doubled"));
}

TEST(ConfigLoader, WrongKindsSayWhatIsDue) {
  EXPECT_EQ(Refusal("seed: {a: 1}"),
            "configuration text, line 1, column 7: \"seed\" cannot hold a map; expected integer: n >= 0");
  EXPECT_THAT(Refusal("seed: [1]"), HasSubstr("\"seed\" cannot hold this list"));
  EXPECT_THAT(Refusal("topk: 0.1"), HasSubstr("\"topk\" is a section; expected its keys density, index"));
  EXPECT_THAT(Refusal("topk: [0.1]"), HasSubstr("\"topk\" cannot hold this list"));
  EXPECT_THAT(Refusal("topk: {density: {x: 1}}"), HasSubstr("\"topk.density\" cannot hold a map"));
  EXPECT_THAT(Refusal("exclude: {a: b}"), HasSubstr("\"exclude\" cannot hold a map"));
  EXPECT_THAT(Refusal("exclude: [a, [b]]"), HasSubstr("\"exclude\" cannot hold this list"));
  EXPECT_THAT(Refusal("exclude: [a, {b: c}]"), HasSubstr("\"exclude\" cannot hold a map"));
  EXPECT_THAT(Refusal("[a, b]"), HasSubstr("keys with values, not a list"));
  EXPECT_THAT(Refusal("topk"), HasSubstr("keys with values"));
  EXPECT_THAT(Refusal("[a]: 1"), HasSubstr("not a list"));
  EXPECT_THAT(Refusal("{{a: b}: 1}"), HasSubstr("a key must be a word, not a map"));
  EXPECT_THAT(Refusal("? [a]\n: 1"), HasSubstr("a key must be a word, not a list"));
}

TEST(ConfigLoader, NullsAreRefused) {
  for (const char* yaml : {"seed:", "seed: ~", "seed: null", "{seed}"}) {
    EXPECT_THAT(Refusal(yaml), HasSubstr("\"seed\" has no value; expected integer: n >= 0")) << yaml;
  }
  EXPECT_THAT(Refusal("topk:"), HasSubstr("\"topk\" has no value; expected its keys density, index"));
  EXPECT_THAT(Refusal("exclude: [a, ~]"), HasSubstr("\"exclude\" has an element without a value"));
  EXPECT_THAT(Refusal("~: 1"), HasSubstr("a key is missing"));
}

TEST(ConfigLoader, ListElementsCannotHideSeparators) {
  EXPECT_THAT(Refusal("exclude: [\"a,b\"]"), HasSubstr("the element \"a,b\""));
  EXPECT_THAT(Refusal("exclude: [\"'a'\"]"), HasSubstr("the element"));
  EXPECT_THAT(Refusal("exclude: [\"\"]"), HasSubstr("exclude: "));
  EXPECT_THAT(Refusal("exclude: [\"a b\"]"), HasSubstr("not so: \"a b\""));
  EXPECT_THAT(Refusal("dgc: {warmup_density: [0.5, 2]}"), HasSubstr("line 1, column 23: dgc.warmup_density"));
}

TEST(ConfigLoader, AnchorsAliasesAndTagsAreRefused) {
  EXPECT_THAT(Refusal("seed: &a 1\nrank: *a"), HasSubstr("line 1, column 7: YAML anchors"));
  EXPECT_THAT(Refusal("topk: &t {density: 1}"), HasSubstr("YAML anchors"));
  EXPECT_THAT(Refusal("&t seed: 1"), HasSubstr("YAML anchors"));
  EXPECT_THAT(Refusal("&t {seed: 1}"), HasSubstr("YAML anchors"));
  EXPECT_THAT(Refusal("exclude: &e [a]"), HasSubstr("YAML anchors"));
  EXPECT_THAT(Refusal("seed: !!int 1"), HasSubstr("the YAML tag"));
  EXPECT_THAT(Refusal("topk: !x {density: 1}"), HasSubstr("the YAML tag"));
  EXPECT_THAT(Refusal("exclude: [*.bias]"),
              AllOf(HasSubstr("line 1, column 11"), HasSubstr("stands in quotes")));
  EXPECT_THAT(Refusal("exclude: *norm*"), HasSubstr("stands in quotes"));
  EXPECT_THAT(Refusal("exclude: [embedding.?]"), HasSubstr("stands in quotes"));
}

TEST(ConfigLoader, SyntaxErrorsNameLineAndColumn) {
  EXPECT_THAT(Refusal("seed: 1\ntopk: {density: 0.1"), StartsWith("configuration text, line 2, column "));
  EXPECT_THAT(Refusal("seed: 1\n method: dgc\nrank: 2"), StartsWith("configuration text, line "));
  EXPECT_THAT(Refusal("seed: \"1"), HasSubstr("not YAML: "));
  EXPECT_THAT(Refusal("\tseed: 1"), HasSubstr("configuration text, line "));
  EXPECT_THAT(Refusal("seed: 1\n---\nrank: 1"), HasSubstr("more than one YAML document"));
  EXPECT_EQ(Loaded("---\nseed: 1\n...\n# end\n").config().seed, 1);
}

TEST(ConfigLoader, ControlCharactersAreRefused) {
  EXPECT_EQ(Refusal("seed: 1\n\x04rank: 5"), "configuration text, line 2: holds the control character 0x04");
  const File file(std::string("seed: 1\n\0", 9));
  EXPECT_THAT(std::string(LoadSettings(nullptr, {file.variable()}).status().message()),
              HasSubstr("line 2: holds the control character 0x00"));
  EXPECT_EQ(Loaded("seed: 1\r\nrank: 5\r\n").config().rank, 5);
}

// Each would exhaust stack, memory or patience of a reader that followed it.
TEST(ConfigLoader, HostileTextsAreRefused) {
  const size_t n = kMaxConfigBytes / 4;
  const auto repeated = [](const std::string& unit, size_t bytes) {
    std::string text;
    while (text.size() + unit.size() <= bytes) text += unit;
    return text;
  };
  Refusal(repeated("[", n));
  Refusal(repeated("{", n));
  Refusal(repeated("- ", n));
  Refusal(repeated("? ", n));
  Refusal(repeated("! ", n));
  Refusal(repeated("a: ", n));
  Refusal(repeated("{a: ", n));
  Refusal(absl::StrCat("topk: ", repeated("[", n)));
  Refusal(absl::StrCat("exclude: ", repeated("[", n)));
  Refusal(absl::StrCat("exclude: [", repeated("a, ", n)));
  Refusal(absl::StrCat("seed: ", repeated("1", n)));
  Refusal(absl::StrCat(repeated("k", n), ": 1"));
  Refusal(repeated("&a ", n));
  Refusal(repeated("---\n", n));
  std::string deep;
  for (size_t depth = 0; deep.size() + depth + 3 < n; ++depth)
    absl::StrAppend(&deep, std::string(depth, ' '), "a:\n");
  Refusal(deep);
  EXPECT_THAT(Refusal(std::string(kMaxConfigBytes + 1, '#')), HasSubstr("longer than 1048576 bytes"));
  EXPECT_TRUE(Loaded(std::string(kMaxConfigBytes, '#')).config() == Config());
  const File file(std::string(kMaxConfigBytes + 1, '#'));
  EXPECT_THAT(std::string(LoadSettings(nullptr, {file.variable()}).status().message()),
              HasSubstr("longer than"));
}

// Whatever the text, the answer is an error with words or settings that can be written down and read.
TEST(ConfigLoader, SurvivesRandomMutations) {
  const std::string seed_text =
      "method: dgc\nexclude: [\"*.bias\", a]\ndgc:\n  density: 0.1\n  warmup_density:\n    - 0.5\n"
      "topk: {density: 0.5, index: 'u32'}\nseed: 42 # end\n";
  const std::string alphabet = "[]{}:,-?!&*#|>'\"%@`~ \n\t01a.\x80\xef\xbb\xbf";
  std::mt19937 random(5);
  size_t accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = seed_text;
    for (uint32_t edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = random() % (text.size() + 1);
      const char c = alphabet[random() % alphabet.size()];
      switch (random() % 4) {
        case 0:
          text.insert(at, 1, c);
          break;
        case 1:
          if (at < text.size()) text[at] = c;
          break;
        case 2:
          text.erase(at, random() % 6);
          break;
        case 3:
          text.insert(at, text.substr(random() % text.size(), random() % 30));
          break;
      }
    }
    const absl::StatusOr<Settings> settings = LoadSettings(text.c_str(), {});
    if (!settings.ok()) {
      ASSERT_EQ(settings.status().code(), absl::StatusCode::kInvalidArgument);
      ASSERT_THAT(std::string(settings.status().message()), StartsWith("configuration text"));
      continue;
    }
    ++accepted;
    for (const wire::ConfigKey& key : wire::ConfigKeys()) {
      Config back;
      ASSERT_TRUE(key.set(key.get(settings->config()), &back).ok()) << key.path << " of\n" << text;
    }
  }
  EXPECT_GT(accepted, 200u);
}

TEST(CurrentEnvironment, HasTheProcessesVariables) {
  ASSERT_EQ(setenv("TERSE_SEED", "12", 1), 0);
  EXPECT_THAT(CurrentEnvironment(), Contains("TERSE_SEED=12"));
  ASSERT_EQ(unsetenv("TERSE_SEED"), 0);
}

}  // namespace
}  // namespace terse::client
