// SPDX-License-Identifier: Apache-2.0
#include "examples/common/progress.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace terse::examples {

Progress::Progress(std::string title, int64_t steps, ProgressStyle style)
    : title_(std::move(title)), steps_(std::max<int64_t>(steps, 1)), style_(style) {
  if (style_ == ProgressStyle::kAuto) {
    style_ = isatty(STDERR_FILENO) != 0 ? ProgressStyle::kBar : ProgressStyle::kLines;
  }
}

void Progress::Show(int64_t step, const std::string& details) {
  constexpr int kWidth = 20;
  if (style_ == ProgressStyle::kNone) return;
  const int64_t tenths = 10 * step / steps_;
  if (style_ == ProgressStyle::kLines && tenths == tenths_shown_) return;
  tenths_shown_ = tenths;

  const int filled = static_cast<int>(kWidth * step / steps_);
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '-');
  const bool redraw = style_ == ProgressStyle::kBar;
  // One write a line: mpirun forwards what it reads, and halves of lines would flicker.
  std::array<char, 512> line;
  const int length =
      std::snprintf(line.data(), line.size(), "%s%-12s [%s] %3d%%  step %lld/%lld  %s%s", redraw ? "\r" : "",
                    title_.c_str(), bar.c_str(), static_cast<int>(100 * step / steps_),
                    static_cast<long long>(step), static_cast<long long>(steps_), details.c_str(),
                    redraw ? (step >= steps_ ? "\033[K\n" : "\033[K") : "\n");
  std::fwrite(line.data(), 1, std::min<size_t>(std::max(length, 0), line.size() - 1), stderr);
  std::fflush(stderr);
}

std::string FormatBytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.*f %s", unit == 0 ? 0 : 2, bytes, kUnits[unit]);
  return text.data();
}

}  // namespace terse::examples
