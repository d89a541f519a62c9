// SPDX-License-Identifier: Apache-2.0
//
// Files that a key names: read whole, or refused with key, path and reason.
#include "proto/wire/text_file.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"

namespace terse::wire {
namespace {

using ::testing::HasSubstr;

class TextFileTest : public ::testing::Test {
 protected:
  TextFileTest() {
    char name[] = "/tmp/terse_text_file_XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~TextFileTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& text) {
    std::ofstream(folder_ / "file", std::ios::binary) << text;
    return folder_ / "file";
  }

  std::filesystem::path folder_;
};

TEST_F(TextFileTest, IsReadWhole) {
  const std::string zero_and_newlines("a\0b\r\n", 5);
  for (const std::string& text : {std::string(), zero_and_newlines, std::string(100000, 'x')})
    EXPECT_EQ(ReadTextFile("tls.ca", Write(text)).value_or("none"), text);
}

TEST_F(TextFileTest, IsNoLargerThanAllowed) {
  EXPECT_TRUE(ReadTextFile("tls.ca", Write(std::string(20000, 'x')), 20000).ok());
  const auto text = ReadTextFile("tls.ca", Write(std::string(20001, 'x')), 20000);
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(text.status().message()),
              HasSubstr("tls.ca: " + (folder_ / "file").string() + " is larger than 20000"));
}

TEST_F(TextFileTest, WhatCannotBeReadIsSaidWithItsPath) {
  for (const std::string& path : {(folder_ / "none").string(), folder_.string(), std::string()}) {
    const auto text = ReadTextFile("tls.ca", path);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kNotFound) << path;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr("tls.ca: cannot read " + path + ": "));
  }
}

}  // namespace
}  // namespace terse::wire
