// SPDX-License-Identifier: Apache-2.0
#include "examples/03_char_lm/text.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace terse::examples {
namespace {

namespace fs = std::filesystem;

// Links are left out: they would only repeat the file they name.
std::vector<fs::path> FilesOf(const std::string& path) {
  if (!fs::is_directory(path)) return {path};
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    if (entry.is_regular_file() && !entry.is_symlink()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string ReadFiles(const std::vector<std::string>& paths) {
  std::ostringstream text;
  for (const std::string& path : paths) {
    for (const fs::path& file : FilesOf(path)) {
      std::ifstream in(file, std::ios::binary);
      if (!in) throw std::runtime_error(file.string() + ": cannot be opened");
      // An empty file would set the stream's fail bit.
      if (in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
    }
  }
  return text.str();
}

}  // namespace

Text LoadText(const std::vector<std::string>& paths, size_t min_bytes, const MpiSession& session) {
  std::string bytes;
  if (session.is_root()) bytes = ReadFiles(paths);
  uint64_t size = bytes.size();
  session.BroadcastFromRoot(&size, sizeof size);
  bytes.resize(size);
  session.BroadcastFromRoot(bytes.data(), size);

  const size_t train = bytes.size() - bytes.size() / 10;
  if (bytes.size() - train < min_bytes) {
    throw std::runtime_error("the text has " + std::to_string(bytes.size()) + " bytes; at least " +
                             std::to_string(10 * min_bytes) + " are needed");
  }
  std::array<int64_t, 256> symbol{};
  for (const char c : bytes) symbol[static_cast<uint8_t>(c)] = 1;
  Text text;
  for (int64_t& entry : symbol) {
    if (entry != 0) entry = text.symbols++;
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    (i < train ? text.train : text.test).push_back(symbol[static_cast<uint8_t>(bytes[i])]);
  }
  return text;
}

}  // namespace terse::examples
