// SPDX-License-Identifier: Apache-2.0
#include "compressors/powersgd.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "compressors/decode_groups.h"
#include "compressors/kernels/dispatch.h"
#include "compressors/orthonormalize.h"
#include "compressors/random_key.h"
#include "compressors/workers.h"
#include "proto/wire/matrix_view.h"

namespace terse {
namespace {

constexpr uint32_t kMaxRank = 1024;
constexpr size_t kHeaderBytes = 16;          // rows and columns
constexpr float kLargest = 0x1p90f;          // element of Q
constexpr float kLargestOrthonormal = 2.0f;  // element of P: at most 1, and what rounding adds

// The parts of one tensor's memory.
struct Layout {
  Layout(const wire::CodecParams& params, const wire::MatrixView& view)
      : rows(view.rows), columns(view.columns), rank(view.RankWithin(params.rank)) {}

  kernels::FactorShape shape() const { return {rows, columns, rank}; }
  size_t elements() const { return rows * columns; }
  size_t left_floats() const { return rank * rows; }
  size_t right_floats() const { return rank * columns; }
  size_t payload_bytes() const {
    return elements() == 0 ? 0 : kHeaderBytes + (left_floats() + right_floats()) * sizeof(float);
  }

  size_t rows;
  size_t columns;
  size_t rank;
};

Layout LayoutOf(const wire::CodecParams& params, absl::Span<const int64_t> shape) {
  return {params, wire::ViewAsMatrix(shape)};
}

// Memory as the codec sees it.
struct Memory {
  Memory(const Layout& layout, const RoundArgs& args)
      : last_right(reinterpret_cast<float*>(args.state.data())),
        left(reinterpret_cast<float*>(args.payload.data() + kHeaderBytes)),
        right(left + layout.left_floats()),
        doubles(reinterpret_cast<double*>(args.scratch.data())),
        work(reinterpret_cast<float*>(doubles + std::max(layout.rows, layout.columns))) {}

  float* last_right;
  float* left;
  float* right;
  double* doubles;  // as many as the longer side
  float* work;      // a right factor
};

bool Aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % alignof(float) == 0; }

absl::Status CheckArgs(const PowerSgd& codec, const wire::CodecParams& params, const RoundArgs& args,
                       const Layout& layout, size_t round, size_t floats) {
  if (absl::Status status = codec.CheckParams(params); !status.ok()) return status;
  const RoundSizes sizes = codec.SizesOf(params, args.shape);
  if (args.residual.size() != layout.elements() || args.state.size() < sizes.state ||
      args.payload.size() < sizes.payload || args.scratch.size() < sizes.scratch) {
    return absl::InvalidArgumentError(
        absl::StrCat("a matrix of ", layout.rows, " x ", layout.columns, " has a residual of ",
                     args.residual.size(), " elements and ", args.state.size(), ", ", args.payload.size(),
                     ", ", args.scratch.size(), " bytes of state, payload, scratch; it needs ", sizes.state,
                     ", ", sizes.payload, ", ", sizes.scratch));
  }
  if (round >= codec.Rounds(params) || floats != codec.RoundFloats(params, args.shape, round)) {
    return absl::InvalidArgumentError(absl::StrCat("round ", round, " with ", floats, " floats"));
  }
  if (!Aligned(args.state.data()) || !Aligned(args.payload.data())) {
    return absl::InvalidArgumentError("state or payload is not aligned for floats");
  }
  return absl::OkStatus();
}

// NaN becomes 0: it comes of infinities that cancel.
void Limit(absl::Span<float> values) {
  for (float& x : values) x = std::isnan(x) ? 0.0f : std::clamp(x, -kLargest, kLargest);
}

bool AllWithin(const float* values, size_t n, float largest) {
  return std::all_of(values, values + n, [largest](float x) { return std::fabs(x) <= largest; });
}

// What is in a payload.
struct Factors {
  Layout layout;
  const float* left;
  const float* right;
};

absl::StatusOr<Factors> ReadPayload(const wire::CodecParams& params, wire::Bytes payload, size_t n) {
  if (!Aligned(payload.data())) {
    return absl::InvalidArgumentError("powersgd payload is not aligned for floats");
  }
  wire::Reader reader(payload);
  wire::MatrixView view{.rows = 0, .columns = 0};
  if (n > 0) view = {.rows = reader.Get<uint64_t>(), .columns = reader.Get<uint64_t>()};
  const bool fits = n == 0 || (view.rows != 0 && n % view.rows == 0 && n / view.rows == view.columns);
  const Layout layout(params, fits ? view : wire::MatrixView{.rows = 0, .columns = 0});
  if (!fits || payload.size() != layout.payload_bytes()) {
    return absl::DataLossError(absl::StrCat("powersgd payload of ", n, " elements has ", payload.size(),
                                            " bytes for ", view.rows, " x ", view.columns));
  }
  if (n == 0) return Factors{layout, nullptr, nullptr};
  const auto* const left = reinterpret_cast<const float*>(payload.data() + kHeaderBytes);
  const float* const right = left + layout.left_floats();
  if (!AllWithin(left, layout.left_floats(), kLargestOrthonormal) ||
      !AllWithin(right, layout.right_floats(), kLargest)) {
    return absl::DataLossError("powersgd payload holds a factor that no encoder makes");
  }
  return Factors{layout, left, right};
}

// Left and right factor draw from streams of their own.
uint64_t KeyOf(RandomKey random, uint32_t side) {
  random.stage = side;
  return StreamKey(random);
}

// Divides the rows of a matrix among the workers.
template <typename Do>
void ForRows(const Layout& layout, const Do& work) {
  ForRanges(layout.elements(), layout.columns * kernels::kLanes, [&](size_t begin, size_t end) {
    kernels::FactorShape rows = layout.shape();
    rows.skip_first = begin / layout.columns;
    rows.skip_last = layout.rows - end / layout.columns;
    work(rows);
  });
}

}  // namespace

absl::Status PowerSgd::CheckParams(const wire::CodecParams& params) const {
  if (params.rank < 1 || params.rank > kMaxRank) {
    return absl::InvalidArgumentError(
        absl::StrCat("powersgd.rank is ", params.rank, "; it must be 1 to ", kMaxRank));
  }
  return absl::OkStatus();
}

size_t PowerSgd::MaxPayloadBytes(const wire::CodecParams& params, size_t n) const {
  // rank <= both sides, so neither factor has more elements than the matrix.
  return n == 0 ? 0 : kHeaderBytes + 2 * n * sizeof(float);
}

RoundSizes PowerSgd::SizesOf(const wire::CodecParams& params, absl::Span<const int64_t> shape) const {
  const Layout layout = LayoutOf(params, shape);
  RoundSizes sizes;
  sizes.state = layout.right_floats() * sizeof(float);
  sizes.payload = layout.payload_bytes();
  sizes.scratch =
      std::max(layout.rows, layout.columns) * sizeof(double) + layout.right_floats() * sizeof(float);
  return sizes;
}

size_t PowerSgd::RoundFloats(const wire::CodecParams& params, absl::Span<const int64_t> shape,
                             size_t round) const {
  const Layout layout = LayoutOf(params, shape);
  return round == 0 ? layout.left_floats() : layout.right_floats();
}

absl::StatusOr<EncodeResult> PowerSgd::Encode(const wire::CodecParams& params, const EncodeArgs& args,
                                              absl::Span<Shard> shards) const {
  return absl::UnimplementedError("powersgd is a linear codec: it has rounds, not payloads");
}

absl::StatusOr<EncodeResult> PowerSgd::BeginRound(const wire::CodecParams& params, const RoundArgs& args,
                                                  size_t round, absl::Span<float> floats) const {
  const Layout layout = LayoutOf(params, args.shape);
  if (absl::Status status = CheckArgs(*this, params, args, layout, round, floats.size()); !status.ok()) {
    return status;
  }
  if (round == 0 && args.input.size() != layout.elements()) {
    return absl::InvalidArgumentError(
        absl::StrCat("input has ", args.input.size(), " elements, the shape ", layout.elements()));
  }
  EncodeResult result;
  if (layout.elements() == 0) return result;
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  const Memory memory(layout, args);
  if (round == 0) {
    std::copy_n(memory.last_right, layout.right_floats(), memory.work);
    Orthonormalize(layout.columns, layout.rank, KeyOf(args.random, 0), memory.work, memory.doubles);
    absl::StatusOr<Factors> sent = Factors{layout, nullptr, nullptr};
    if (!args.deferred.empty()) sent = ReadPayload(params, args.deferred, layout.elements());
    if (!sent.ok()) return sent.status();
    if (sent->layout.rows != layout.rows || sent->layout.columns != layout.columns) {
      return absl::InvalidArgumentError("what is deferred is of another shape");
    }
    const kernels::Factors off{sent->left, sent->right};
    std::atomic<bool> nonfinite = false;
    ForRows(layout, [&](const kernels::FactorShape& rows) {
      if (kernels.project_rows(rows, off, args.input.data(), args.residual.data(), memory.work,
                               floats.data())) {
        nonfinite = true;
      }
    });
    result.nonfinite = nonfinite;
    Limit(floats);
  } else {
    const size_t parts = std::min(WorkersFor(layout.elements()), layout.columns / kernels::kLanes + 1);
    const size_t each = (layout.columns / parts / kernels::kLanes + 1) * kernels::kLanes;
    ForTasks(parts, [&](size_t part) {
      kernels.project_columns(layout.shape(), args.residual.data(), memory.left, floats.data(),
                              std::min(part * each, layout.columns),
                              std::min((part + 1) * each, layout.columns));
    });
    Limit(floats);
    std::copy(floats.begin(), floats.end(), memory.right);
  }
  return result;
}

absl::Status PowerSgd::EndRound(const wire::CodecParams& params, const RoundArgs& args, size_t round,
                                absl::Span<const float> sum, absl::Span<float> out) const {
  const Layout layout = LayoutOf(params, args.shape);
  if (absl::Status status = CheckArgs(*this, params, args, layout, round, sum.size()); !status.ok()) {
    return status;
  }
  if (layout.elements() == 0) return absl::OkStatus();
  const kernels::Kernels& kernels = kernels::ActiveKernels();
  const Memory memory(layout, args);
  if (round == 0) {
    wire::Writer header(args.payload);
    header.Put(uint64_t{layout.rows});
    header.Put(uint64_t{layout.columns});
    std::copy(sum.begin(), sum.end(), memory.left);
    Orthonormalize(layout.rows, layout.rank, KeyOf(args.random, 1), memory.left, memory.doubles);
    return absl::OkStatus();
  }
  if (out.size() != layout.elements()) {
    return absl::InvalidArgumentError(
        absl::StrCat("output has ", out.size(), " elements, the shape ", layout.elements()));
  }
  const float* const mean = memory.work;
  const float weight = 1.0f / static_cast<float>(args.ranks);
  std::transform(sum.begin(), sum.end(), memory.work, [weight](float x) { return weight * x; });
  if (params.error == wire::LowRankError::kAveraged) std::copy_n(mean, sum.size(), memory.right);
  const bool around = kernels::BeyondCaches(out.size() * sizeof(float));
  ForRows(layout, [&](const kernels::FactorShape& rows) {
    kernels.expand(rows, memory.left, mean, 1.0f, around ? kernels::Start::kStream : kernels::Start::kAssign,
                   out.data());
    if (around) kernels::EndStream();
  });
  for (size_t k = 0; k < layout.rank; ++k) {
    const float* column = mean + k * layout.columns;
    if (std::all_of(column, column + layout.columns, [](float x) { return x == 0.0f; })) continue;
    std::copy_n(column, layout.columns, memory.last_right + k * layout.columns);
  }
  return absl::OkStatus();
}

absl::Status PowerSgd::Decode(const wire::CodecParams& params, wire::Bytes payload, float weight,
                              Accumulate accumulate, absl::Span<float> out) const {
  if (absl::Status status = CheckParams(params); !status.ok()) return status;
  const absl::StatusOr<Factors> factors = ReadPayload(params, payload, out.size());
  if (!factors.ok()) return factors.status();
  if (out.empty()) return absl::OkStatus();
  kernels::ActiveKernels().expand(factors->layout.shape(), factors->left, factors->right, weight,
                                  StartOf(accumulate), out.data());
  if (accumulate == Accumulate::kAssignAround) kernels::EndStream();
  return absl::OkStatus();
}

const Compressor& PowerSgdCompressor() {
  static const auto* const compressor = new PowerSgd;
  return *compressor;
}

}  // namespace terse
