// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_EXAMPLES_03_CHAR_LM_TEXT_H_
#define TERSE_EXAMPLES_03_CHAR_LM_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "examples/common/mpi_session.h"

namespace terse::examples {

// A text as a sequence of symbols: each distinct byte is one, numbered in order of its value. The first nine
// tenths are for training, the rest is for testing.
struct Text {
  std::vector<int64_t> train;
  std::vector<int64_t> test;
  int64_t symbols = 0;
};

// Rank 0 reads the files one after another (a folder stands for its regular files, by name); the others get
// the text from it. Throws std::runtime_error when a file cannot be read or there are fewer than `min_bytes`
// for testing. Collective.
Text LoadText(const std::vector<std::string>& paths, size_t min_bytes, const MpiSession& session);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_03_CHAR_LM_TEXT_H_
