// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_EXAMPLES_COMMON_PROGRESS_H_
#define TERSE_EXAMPLES_COMMON_PROGRESS_H_

#include <cstdint>
#include <string>

namespace terse::examples {

// How progress is shown on stderr. Under mpirun stderr is a pipe even when a person is watching, so a
// script that knows better says kBar.
enum class ProgressStyle {
  kAuto,   // kBar on a terminal, else kLines
  kBar,    // one line that is redrawn
  kLines,  // a line every tenth of the way
  kNone,
};

// "dgc  [########------------]  40%  step 374/936  loss 0.512 ...". One thread.
class Progress {
 public:
  Progress(std::string title, int64_t steps, ProgressStyle style);
  // `step` steps are done; `details` follows the bar.
  void Show(int64_t step, const std::string& details);

 private:
  std::string title_;
  int64_t steps_;
  ProgressStyle style_;
  int64_t tenths_shown_ = 0;
};

// "1.25 MB", in powers of 1000.
std::string FormatBytes(double bytes);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_PROGRESS_H_
