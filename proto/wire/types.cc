// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/types.h"

namespace terse::wire {
namespace {

// The names, indexed by the pinned numbers of types.h.
constexpr std::string_view kDTypes[] = {"float32", "float64", "float16", "bfloat16"};
constexpr std::string_view kCodecs[] = {"none", "fp16", "bf16", "topk", "onebit", "quantize", "powersgd"};
constexpr std::string_view kMethods[] = {"allreduce", "dgc", "onebit_adam"};
constexpr std::string_view kExchanges[] = {
    "dense", "deterministic-dense", "all-gather", "scatter-reduce-all-gather", "sparse-reduce", "low-rank"};
constexpr std::string_view kRoles[] = {"own", "replicated", "shard"};

template <typename T, size_t n>
std::string_view NameIn(const std::string_view (&names)[n], T value) {
  const auto index = static_cast<size_t>(value);
  return index < n ? names[index] : "unknown";
}

template <typename T, size_t n>
std::optional<T> ParseIn(const std::string_view (&names)[n], std::string_view name) {
  for (size_t i = 0; i < n; ++i) {
    if (names[i] == name) return static_cast<T>(i);
  }
  return std::nullopt;
}

}  // namespace

size_t DTypeSize(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
    case DType::kFloat64:
      return 8;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
  }
  return 0;
}

std::string_view Name(DType dtype) { return NameIn(kDTypes, dtype); }
std::string_view Name(Codec codec) { return NameIn(kCodecs, codec); }
std::string_view Name(Method method) { return NameIn(kMethods, method); }
std::string_view Name(Exchange exchange) { return NameIn(kExchanges, exchange); }
std::string_view Name(MemoryRole role) { return NameIn(kRoles, role); }

std::optional<Codec> ParseCodec(std::string_view name) { return ParseIn<Codec>(kCodecs, name); }
std::optional<Method> ParseMethod(std::string_view name) { return ParseIn<Method>(kMethods, name); }

}  // namespace terse::wire
