// SPDX-License-Identifier: Apache-2.0
#include "compressors/errors/error_table.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compressors/errors/parts.h"
#include "compressors/kernels/floats.h"
#include "compressors/registry.h"
#include "proto/wire/text.h"

namespace terse {
namespace errors {
namespace {

// As far from each element as its conversion is.
template <typename Convert>
double ConversionError(absl::Span<const float> c, Convert convert) {
  double error = 0;
  const double share = VisitSample(c.size(), 1024, kErrorSample, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const double x = Finite(c[i]);
      const double off = x - static_cast<double>(convert(static_cast<float>(x)));
      error += off * off;
    }
  });
  return share * error;
}

// Sums of one block.
struct Moments {
  double count = 0;
  double magnitude = 0;
  double square = 0;

  void Add(double x) {
    count += 1;
    magnitude += std::fabs(x);
    square += x * x;
  }
  // Of signs times one scale.
  double Error(wire::ScaleNorm norm) const {
    if (count == 0) return 0;
    const double scale = norm == wire::ScaleNorm::kL2 ? std::sqrt(square / count) : magnitude / count;
    return std::max(0.0, square - 2 * scale * magnitude + count * scale * scale);
  }
};

double OneBitError(const wire::CodecParams& params, absl::Span<const float> c) {
  Moments all;
  double error = 0;
  // Blocks of their own scales are looked at whole.
  const size_t block = params.block == 0 ? 1024 : params.block;
  const double share = VisitSample(c.size(), block, kErrorSample, [&](size_t begin, size_t end) {
    Moments part;
    for (size_t i = begin; i < end; ++i) part.Add(Finite(c[i]));
    error += part.Error(params.scale);
    all.count += part.count;
    all.magnitude += part.magnitude;
    all.square += part.square;
  });
  return share * (params.block == 0 ? all.Error(params.scale) : error);
}

}  // namespace

std::vector<double> OneBitErrors(absl::Span<const wire::CodecParams> settings, absl::Span<const float> c) {
  std::vector<double> squared;
  squared.reserve(settings.size());
  for (const wire::CodecParams& params : settings) squared.push_back(OneBitError(params, c));
  return squared;
}

}  // namespace errors

absl::StatusOr<std::vector<double>> SquaredErrors(wire::Codec codec,
                                                  absl::Span<const wire::CodecParams> settings,
                                                  absl::Span<const float> c,
                                                  absl::Span<const int64_t> shape) {
  const Compressor* const compressor = FindCompressor(codec);
  if (compressor == nullptr) return absl::InvalidArgumentError("there is no such codec");
  for (const wire::CodecParams& params : settings) {
    if (absl::Status status = compressor->CheckParams(params); !status.ok()) return status;
  }
  const wire::MatrixView view = wire::ViewAsMatrix(shape);
  if (view.rows * view.columns != c.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a vector of ", c.size(), " elements for a shape of ", view.rows * view.columns));
  }
  switch (codec) {
    case wire::Codec::kNone:
      return std::vector<double>(settings.size(), 0.0);
    case wire::Codec::kFp16:
      return std::vector<double>(settings.size(), errors::ConversionError(c, [](float x) {
                                   return kernels::FromFp16(kernels::ToFp16(x));
                                 }));
    case wire::Codec::kBf16:
      return std::vector<double>(settings.size(), errors::ConversionError(c, [](float x) {
                                   return kernels::FromBf16(kernels::ToBf16(x));
                                 }));
    case wire::Codec::kTopK:
      return errors::TopKErrors(settings, c);
    case wire::Codec::kOneBit:
      return errors::OneBitErrors(settings, c);
    case wire::Codec::kQuantize:
      return errors::QuantizeErrors(settings, c);
    case wire::Codec::kPowerSgd:
      return errors::LowRankErrors(settings, c, view);
  }
  return absl::InvalidArgumentError(absl::StrCat("no errors are known of ", wire::View(wire::Name(codec))));
}

}  // namespace terse
