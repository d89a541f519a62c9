// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/kernels/kernel_paths.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <stdexcept>

#include "compressors/kernels/dispatch.h"
#include "compressors/memory/large_vector.h"
#include "compressors/methods/method.h"
#include "compressors/registry.h"

namespace terse::cli {
namespace {

using Bytes = std::vector<std::byte, LargeAllocator<std::byte>>;

constexpr double kDensity = 0.001;
constexpr size_t kPeers = 4;
constexpr size_t kLayerRows = 4096;
constexpr size_t kLayerColumns = 1024;

void Check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

wire::CodecParams Quantize(uint32_t bits) {
  wire::CodecParams params;
  params.bits = bits;
  params.rounding = wire::Rounding::kStochastic;
  return params;
}
wire::CodecParams Sparse(wire::SelectionRule selection) {
  wire::CodecParams params;
  params.density = kDensity;
  params.index = wire::IndexCoding::kRice;
  params.selection = selection;
  return params;
}
wire::CodecParams OneBit() {
  wire::CodecParams params;
  params.block = 0;
  return params;
}

// One tensor's memory around a codec.
class Encoder {
 public:
  Encoder(wire::Codec codec, const wire::CodecParams& params, size_t n)
      : codec_(*FindCompressor(codec)),
        params_(params),
        n_(n),
        state_(codec_.StateBytes(params, n)),
        scratch_(codec_.ScratchBytes(params, n)),
        payload_(codec_.MaxPayloadBytes(params, n)) {}

  wire::Bytes Encode(uint64_t step, absl::Span<const float> input, absl::Span<float> residual,
                     const kernels::Momentum* momentum = nullptr) {
    EncodeArgs args;
    args.input = input;
    args.momentum = momentum;
    args.residual = residual;
    args.state = absl::MakeSpan(state_);
    args.scratch = absl::MakeSpan(scratch_);
    args.random.step = step;
    Shard shard{.begin = 0, .end = n_, .out = absl::MakeSpan(payload_), .size = 0};
    Check(codec_.Encode(params_, args, absl::MakeSpan(&shard, 1)).status());
    return shard.out.first(shard.size);
  }

  const Compressor& codec() const { return codec_; }
  const wire::CodecParams& params() const { return params_; }
  size_t elements() const { return n_; }

 private:
  const Compressor& codec_;
  const wire::CodecParams params_;
  const size_t n_;
  Bytes state_;
  Bytes scratch_;
  Bytes payload_;
};

// Encode, with a residual that lives from step to step, or without one.
class EncodePath final : public KernelPath {
 public:
  EncodePath(wire::Codec codec, const wire::CodecParams& params, size_t n, bool error_feedback)
      : encoder_(codec, params, n), residual_(error_feedback ? n : 0) {}

  void Run(uint64_t step, std::span<const float> gradient) override {
    encoder_.Encode(step, gradient, absl::MakeSpan(residual_));
  }

 private:
  Encoder encoder_;
  FloatVector residual_;
};

// The method dgc with its codec: momentum, accumulation, selection, masking.
class DgcPath final : public KernelPath {
 public:
  explicit DgcPath(size_t n)
      : encoder_(wire::Codec::kTopK, Sparse(wire::SelectionRule::kExact), n),
        method_(MakeTensorMethod(MethodConfig(), {.elements = n, .world_size = static_cast<int>(kPeers)})),
        positions_(n / 2 + 1) {}

  void Run(uint64_t step, std::span<const float> gradient) override {
    bool nonfinite = false;
    const kernels::Momentum* momentum = nullptr;
    const absl::Span<const float> input = method_->BeforeMomentum(gradient, {}, &nonfinite, &momentum);
    const wire::Bytes payload = encoder_.Encode(step, input, method_->residual(), momentum);
    const absl::StatusOr<size_t> sent =
        encoder_.codec().Support(encoder_.params(), payload, encoder_.elements(), absl::MakeSpan(positions_));
    Check(sent.status());
    method_->AfterEncode(absl::MakeSpan(positions_).first(*sent));
    method_->Resolve(1.0);
  }

 private:
  static wire::Config MethodConfig() {
    wire::Config config;
    config.method = wire::Method::kDgc;
    config.dgc.momentum = 0.9;
    config.dgc.masking = true;
    return config;
  }

  Encoder encoder_;
  std::unique_ptr<TensorMethod> method_;
  std::vector<uint32_t, LargeAllocator<uint32_t>> positions_;
};

// DecodeSum of the payloads of four ranks.
class DecodePath final : public KernelPath {
 public:
  DecodePath(wire::Codec codec, const wire::CodecParams& params, size_t n)
      : codec_(codec), params_(params), out_(n) {}

  void Prepare(std::span<const float> gradient) override {
    Encoder encoder(codec_, params_, out_.size());
    FloatVector rotated(gradient.begin(), gradient.end());
    for (size_t p = 0; p < kPeers; ++p) {
      const wire::Bytes payload = encoder.Encode(p, rotated, {});
      payloads_.emplace_back(payload.begin(), payload.end());
      std::rotate(rotated.begin(), rotated.begin() + static_cast<ptrdiff_t>(out_.size() / kPeers),
                  rotated.end());
    }
    views_.assign(payloads_.begin(), payloads_.end());
  }

  void Run(uint64_t step, std::span<const float> gradient) override {
    Check(FindCompressor(codec_)->DecodeSum(params_, views_, 1.0f / kPeers, absl::MakeSpan(out_)));
  }

 private:
  const wire::Codec codec_;
  const wire::CodecParams params_;
  FloatVector out_;
  std::vector<Bytes> payloads_;
  std::vector<wire::Bytes> views_;
};

// Both rounds of powersgd on layers of 4096 x 1024; the last layer has the rows that remain. The sum over the
// ranks is that of one rank.
class PowerSgdPath final : public KernelPath {
 public:
  explicit PowerSgdPath(size_t n) : codec_(*FindCompressor(wire::Codec::kPowerSgd)), residual_(n), out_(n) {
    const size_t columns = std::min(n, kLayerColumns);
    for (size_t at = 0; n - at >= columns;) {
      const size_t rows = std::min((n - at) / columns, kLayerRows);
      Layer& layer = layers_.emplace_back();
      layer.begin = at;
      layer.shape = {static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
      const RoundSizes sizes = codec_.SizesOf(params_, layer.shape);
      layer.state.resize(sizes.state);
      layer.payload.resize(sizes.payload);
      layer.scratch.resize(sizes.scratch);
      at += rows * columns;
    }
  }

  void Run(uint64_t step, std::span<const float> gradient) override {
    for (Layer& layer : layers_) {
      const auto n = static_cast<size_t>(layer.shape[0] * layer.shape[1]);
      RoundArgs args;
      args.shape = layer.shape;
      args.input = gradient.subspan(layer.begin, n);
      args.residual = absl::MakeSpan(residual_).subspan(layer.begin, n);
      args.state = absl::MakeSpan(layer.state);
      args.deferred = layer.deferred;
      args.payload = absl::MakeSpan(layer.payload);
      args.scratch = absl::MakeSpan(layer.scratch);
      args.random.step = step;
      for (size_t round = 0; round < codec_.Rounds(params_); ++round) {
        floats_.resize(codec_.RoundFloats(params_, args.shape, round));
        Check(codec_.BeginRound(params_, args, round, absl::MakeSpan(floats_)).status());
        const bool last = round + 1 == codec_.Rounds(params_);
        Check(codec_.EndRound(params_, args, round, floats_,
                              absl::MakeSpan(out_).subspan(layer.begin, last ? n : 0)));
      }
      layer.deferred.swap(layer.payload);
      layer.payload.resize(layer.deferred.size());
    }
  }

 private:
  struct Layer {
    size_t begin = 0;
    std::vector<int64_t> shape;
    Bytes state;
    Bytes payload;
    Bytes deferred;  // the payload of the step before
    Bytes scratch;
  };

  const Compressor& codec_;
  const wire::CodecParams params_;  // rank 4
  FloatVector residual_;
  FloatVector out_;
  FloatVector floats_;
  std::vector<Layer> layers_;
};

using Paths = std::vector<std::unique_ptr<KernelPath>>;

template <typename Path, typename... Args>
Paths One(const Args&... args) {
  Paths paths;
  paths.push_back(std::make_unique<Path>(args...));
  return paths;
}

struct Kernel {
  const char* id;
  Paths (*make)(size_t n);
};

constexpr Kernel kKernels[] = {
    {"onebit_encode", [](size_t n) { return One<EncodePath>(wire::Codec::kOneBit, OneBit(), n, true); }},
    {"onebit_decode4", [](size_t n) { return One<DecodePath>(wire::Codec::kOneBit, OneBit(), n); }},
    {"quantize4_encode",
     [](size_t n) { return One<EncodePath>(wire::Codec::kQuantize, Quantize(4), n, true); }},
    {"quantize8_encode",
     [](size_t n) { return One<EncodePath>(wire::Codec::kQuantize, Quantize(8), n, true); }},
    {"quantize4_decode4", [](size_t n) { return One<DecodePath>(wire::Codec::kQuantize, Quantize(4), n); }},
    {"dgc_select", [](size_t n) { return One<DgcPath>(n); }},
    {"topk_encode",
     [](size_t n) {
       return One<EncodePath>(wire::Codec::kTopK, Sparse(wire::SelectionRule::kSampled), n, true);
     }},
    {"sparse_decode4",
     [](size_t n) { return One<DecodePath>(wire::Codec::kTopK, Sparse(wire::SelectionRule::kExact), n); }},
    {"half_convert",
     [](size_t n) {
       Paths paths = One<EncodePath>(wire::Codec::kFp16, wire::CodecParams(), n, false);
       paths.push_back(std::make_unique<EncodePath>(wire::Codec::kBf16, wire::CodecParams(), n, false));
       return paths;
     }},
    {"powersgd4", [](size_t n) { return One<PowerSgdPath>(n); }},
};

}  // namespace

std::vector<std::string> KernelIds() {
  std::vector<std::string> ids;
  for (const Kernel& kernel : kKernels) ids.emplace_back(kernel.id);
  return ids;
}

std::vector<std::unique_ptr<KernelPath>> MakeKernelPaths(std::string_view id, size_t n) {
  for (const Kernel& kernel : kKernels) {
    if (kernel.id == id) return kernel.make(n);
  }
  return {};
}

namespace {

std::string InCapitals(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return static_cast<char>(std::toupper(static_cast<unsigned char>(c))); });
  return name;
}

}  // namespace

std::vector<std::string> KernelTargets() {
  std::vector<std::string> names;
  for (const kernels::Kernels* table : kernels::AvailableKernels()) names.push_back(InCapitals(table->name));
  return names;
}

std::string KernelTarget() {
  if (const absl::Status status = kernels::CheckSimdEnvironment(); !status.ok()) {
    throw std::invalid_argument(std::string(status.message()));
  }
  return InCapitals(kernels::ActiveKernels().name);
}

}  // namespace terse::cli
