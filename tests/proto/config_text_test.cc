// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/config_text.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/wire/config.h"

namespace terse::wire {
namespace {

using testing::HasSubstr;

// With UPDATE_DOCS=1 in the environment it writes the file first.
TEST(ConfigText, DocumentationIsThatOfTheTable) {
  const std::string path = TERSE_SOURCE_DIR "/docs/configuration.md";
  if (std::getenv("UPDATE_DOCS") != nullptr) std::ofstream(path) << ConfigMarkdown();
  std::ifstream file(path);
  ASSERT_TRUE(file.is_open()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), ConfigMarkdown())
      << "The table of keys has changed. Write its documentation anew with\n"
         "  UPDATE_DOCS=1 build/bin/proto_config_text_test";
}

TEST(ConfigText, EveryKeyIsThere) {
  const std::string help = ConfigHelp();
  const std::string markdown = ConfigMarkdown();
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string path(key.path);
    EXPECT_THAT(help, HasSubstr(path + "  (" + EnvironmentName(key.path) + ")\n"));
    EXPECT_THAT(help, HasSubstr(std::string(key.help)));
    EXPECT_THAT(help, HasSubstr("; default: " + key.get(Config()) + "\n"));
    EXPECT_THAT(markdown, HasSubstr("\n| `" + path + "` | "));
  }
  for (const std::string_view name : OtherEnvironment()) {
    EXPECT_THAT(markdown, HasSubstr("\n| `" + std::string(name) + "` | "));
  }
}

// A bar that is not escaped would add a column.
TEST(ConfigText, EveryRowHasFiveCells) {
  std::istringstream lines(ConfigMarkdown());
  size_t rows = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("| `TERSE_") != 0 && line.find("| `") == 0) {
      size_t bars = 0;
      for (size_t i = 0; i < line.size(); ++i)
        bars += line[i] == '|' && (i == 0 || line[i - 1] != '\\') ? 1 : 0;
      EXPECT_EQ(bars, 6u) << line;
      ++rows;
    }
  }
  EXPECT_EQ(rows, ConfigKeys().size());
}

}  // namespace
}  // namespace terse::wire
