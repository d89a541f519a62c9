// SPDX-License-Identifier: Apache-2.0
#include "compressors/kernels/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hwy/cache_control.h"
#include "proto/wire/text.h"

namespace terse::kernels {

void EndStream() { hwy::FlushStream(); }

namespace {

const Kernels* FindKernels(std::string_view name) {
  for (const Kernels* kernels : AvailableKernels()) {
    if (absl::EqualsIgnoreCase(kernels->name, wire::View(name))) return kernels;
  }
  return nullptr;
}

struct Choice {
  const Kernels* kernels;
  absl::Status status;
};

Choice Choose() {
  const Kernels* best = AvailableKernels().back();
  const char* name = std::getenv("TERSE_SIMD");
  if (name == nullptr || *name == '\0') return {best, absl::OkStatus()};
  if (const Kernels* kernels = FindKernels(name)) return {kernels, absl::OkStatus()};
  const auto append_name = [](std::string* out, const Kernels* kernels) { out->append(kernels->name); };
  return {best, absl::InvalidArgumentError(absl::StrCat("TERSE_SIMD is \"", name, "\"; this processor runs ",
                                                        absl::StrJoin(AvailableKernels(), ", ", append_name),
                                                        "; unset it for the best of them"))};
}

const Choice& FromEnvironment() {
  static const Choice* const choice = new Choice(Choose());
  return *choice;
}

std::atomic<const Kernels*>& Override() {
  static std::atomic<const Kernels*> kernels{nullptr};
  return kernels;
}

}  // namespace

const Kernels& ActiveKernels() {
  if (const Kernels* kernels = Override().load(std::memory_order_relaxed)) return *kernels;
  return *FromEnvironment().kernels;
}

absl::Status CheckSimdEnvironment() { return FromEnvironment().status; }

ScopedKernelsForTest::ScopedKernelsForTest(const Kernels& kernels)
    : previous_(Override().exchange(&kernels)) {}
ScopedKernelsForTest::~ScopedKernelsForTest() { Override().store(previous_); }

}  // namespace terse::kernels
