// SPDX-License-Identifier: Apache-2.0
#include "compressors/errors/error_table.h"
#include "compressors/errors/parts.h"
#include "compressors/kernels/floats.h"

namespace terse::errors {
namespace {

// Of a block: what its levels reach over.
struct Reach {
  double least = 0;
  double greatest = 0;
  double square = 0;
};

Reach ReachOf(absl::Span<const double> block) {
  Reach reach{.least = block[0], .greatest = block[0]};
  for (const double x : block) {
    reach.least = std::min(reach.least, x);
    reach.greatest = std::max(reach.greatest, x);
    reach.square += x * x;
  }
  return reach;
}

// bfloat16 as the codec rounds it, within what it saturates at.
double Rounded(double x, uint16_t (*round)(float)) {
  return kernels::FromBf16(round(static_cast<float>(std::clamp(x, -0x1p126, 0x1p126))));
}

// The nearest whole number, of one that is not negative and below 2^51: in a way that vectorises.
double Nearest(double x) {
  constexpr double kShift = 0x1.8p52;
  return (x + kShift) - kShift;
}

double BlockError(const wire::CodecParams& params, const Reach& reach, absl::Span<const double> block) {
  const double levels = std::ldexp(1.0, static_cast<int>(params.bits)) - 1;
  const double half = std::ldexp(1.0, static_cast<int>(params.bits) - 1) - 1;
  double from = 0;
  double unit = 0;
  if (params.span == wire::QuantizeSpan::kMinMax) {
    from = Rounded(reach.least, kernels::ToBf16Down);
    unit = Rounded((reach.greatest - from) / levels, kernels::ToBf16Up);
  } else {
    const double most = params.span == wire::QuantizeSpan::kMax ? std::max(reach.greatest, -reach.least)
                                                                : std::sqrt(reach.square);
    unit = Rounded(most / half, kernels::ToBf16Up);
    from = -half * unit;
  }
  double error = 0;
  if (!(unit > 0)) {
    for (const double x : block) error += (x - from) * (x - from);
    return error;
  }
  const double per_unit = 1 / unit;
  if (params.rounding == wire::Rounding::kNearest) {
    for (const double x : block) {
      const double place = (x - from) * per_unit;
      const double off = place - Nearest(place);
      error += off * off;
    }
  } else {
    // The mean over the random numbers: up by 1 - f with probability f, else down by f.
    for (const double x : block) {
      const double place = (x - from) * per_unit;
      const double off = std::fabs(place - Nearest(place));
      error += off * (1 - off);
    }
  }
  return error * unit * unit;
}

}  // namespace

std::vector<double> QuantizeErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c) {
  std::vector<double> squared(settings.size(), 0.0);
  std::vector<double> block;
  std::vector<bool> done(settings.size(), false);
  // Settings of the same blocks go over them together.
  for (size_t first = 0; first < settings.size(); ++first) {
    if (done[first]) continue;
    const size_t size = settings[first].block;
    std::vector<size_t> alike;
    for (size_t i = first; i < settings.size(); ++i) {
      if (settings[i].block != size) continue;
      alike.push_back(i);
      done[i] = true;
    }
    const double share = VisitSample(c.size(), size, kErrorSample, [&](size_t begin, size_t end) {
      block.resize(end - begin);
      for (size_t i = begin; i < end; ++i) block[i - begin] = Finite(c[i]);
      const Reach reach = ReachOf(block);
      for (const size_t i : alike) squared[i] += BlockError(settings[i], reach, block);
    });
    for (const size_t i : alike) squared[i] *= share;
  }
  return squared;
}

}  // namespace terse::errors
