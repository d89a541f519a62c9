// SPDX-License-Identifier: Apache-2.0
//
// Stands in for libFuzzer in ordinary builds: `fuzz_<target>_replay FOLDER MUTATIONS` runs the target over
// every file of the folder, then over so many mutations of them, the same ones every time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace {

using Input = std::vector<uint8_t>;

std::vector<Input> ReadFolder(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Input> inputs;
  for (const std::filesystem::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

// One to four changes: a bit, a byte, a few bytes gone or doubled, or the end of another input.
Input Mutated(Input input, const std::vector<Input>& inputs, std::mt19937& generator) {
  const auto random = [&generator](size_t bound) { return static_cast<size_t>(generator() % bound); };
  for (size_t changes = 1 + random(4); changes > 0 && !input.empty(); --changes) {
    const auto at = input.begin() + static_cast<std::ptrdiff_t>(random(input.size()));
    const auto length =
        static_cast<std::ptrdiff_t>(std::min<size_t>(1 + random(8), static_cast<size_t>(input.end() - at)));
    const Input& other = inputs[random(inputs.size())];
    switch (random(5)) {
      case 0:
        *at ^= static_cast<uint8_t>(1u << random(8));
        break;
      case 1:
        *at = static_cast<uint8_t>(generator());
        break;
      case 2:
        input.erase(at, at + length);
        break;
      case 3: {
        const Input piece(at, at + length);
        input.insert(at, piece.begin(), piece.end());
        break;
      }
      default:
        input.erase(at, input.end());
        input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(random(other.size() + 1)),
                     other.end());
    }
  }
  return input;
}

// A copy of its own, so that a sanitizer sees a read beyond it.
void Run(const Input& input) {
  const Input copy(input);
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER MUTATIONS\n", argv[0]);
    return 2;
  }
  const std::vector<Input> inputs = ReadFolder(argv[1]);
  if (inputs.empty()) {
    std::fprintf(stderr, "%s: no inputs in '%s'\n", argv[0], argv[1]);
    return 1;
  }
  for (const Input& input : inputs) Run(input);
  std::mt19937 generator(1);
  const int mutations = std::atoi(argv[2]);
  for (int i = 0; i < mutations; ++i) {
    Run(Mutated(inputs[static_cast<size_t>(i) % inputs.size()], inputs, generator));
  }
  std::printf("%zu inputs and %d mutations\n", inputs.size(), mutations);
  return 0;
}
