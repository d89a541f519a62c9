// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "compressors/errors/error_table.h"
#include "compressors/errors/parts.h"
#include "compressors/topk.h"

namespace terse::errors {
namespace {

// Bins of magnitude: 32 to an octave, from bits of the exponent and the highest of the fraction.
constexpr int kShift = 18;
constexpr size_t kBins = size_t{0x7f800000} >> kShift;

// The mean square of what is lost in rounding a value of this bin to the values' format.
double RoundingLoss(wire::ValueFormat format, size_t bin) {
  if (format == wire::ValueFormat::kFp32 || bin == 0) return 0;
  const auto least = std::bit_cast<float>(static_cast<uint32_t>(bin << kShift));
  const int exponent = std::ilogb(least);
  const double step = format == wire::ValueFormat::kFp16 ? std::ldexp(1.0, std::max(exponent, -14) - 10)
                                                         : std::ldexp(1.0, std::max(exponent, -126) - 7);
  return step * step / 12;
}

}  // namespace

std::vector<double> TopKErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c) {
  std::vector<double> count(kBins, 0.0);
  std::vector<double> square(kBins, 0.0);
  const double share = VisitSample(c.size(), 1024, kErrorSample, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const auto magnitude = static_cast<float>(std::fabs(Finite(c[i])));
      const size_t bin = std::bit_cast<uint32_t>(magnitude) >> kShift;
      count[bin] += 1;
      square[bin] += static_cast<double>(magnitude) * magnitude;
    }
  });
  std::vector<double> squared;
  squared.reserve(settings.size());
  for (const wire::CodecParams& params : settings) {
    // From the greatest down: what is sent of a bin that is cut are its largest, taken to be evenly spread.
    double left = static_cast<double>(TopKCount(params.density, c.size())) / share;
    double lost = 0;
    for (size_t bin = kBins; bin-- > 0;) {
      if (count[bin] == 0) continue;
      const double taken = std::min(left, count[bin]);
      left -= taken;
      const double part = taken / count[bin];
      // Squares of a bin range over a 16th of themselves: those above the cut are above the bin's mean.
      const double mean = square[bin] / count[bin];
      const double above = taken * mean * (1 + (1 - part) / 32);
      lost += std::max(0.0, square[bin] - above) + taken * RoundingLoss(params.values, bin);
    }
    squared.push_back(share * lost);
  }
  return squared;
}

}  // namespace terse::errors
