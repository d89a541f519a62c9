// SPDX-License-Identifier: Apache-2.0
//
// What an engine keeps between steps, as tests see it: through the files of a saved state.
#ifndef TERSE_TESTS_ENGINE_MEMORIES_H_
#define TERSE_TESTS_ENGINE_MEMORIES_H_

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "proto/wire/bytes.h"
#include "proto/wire/state.h"
#include "runtime/engine/state_files.h"

namespace terse::engine {

using Memories = std::map<std::string, std::vector<double>>;

inline double Norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double x : values) sum += x * x;
  return std::sqrt(sum);
}

// What the files of the newest save hold of tensor 0, in units of the result: own vectors weighted by
// `weight` and summed, shards put in their places and summed into "pending" with the residuals, replicated
// ones as they are. `norms` gets the sum of the weighted norms of all vectors in units of a gradient: what
// rounding is measured by.
inline Memories ReadMemories(const std::string& directory, double weight, double* norms = nullptr) {
  Memories memories;
  double sum_of_norms = 0;
  const absl::StatusOr<std::vector<StateSave>> saves = ListSaves(directory);
  EXPECT_TRUE(saves.ok() && !saves->empty() && saves->front().whole());
  for (const uint32_t rank : saves->front().ranks) {
    auto file = StateFileReader::Open(directory, saves->front().number, rank, saves->front().world_size);
    EXPECT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE((*file)->Next(wire::StateSection::kConfig).ok());
    EXPECT_TRUE((*file)->Next(wire::StateSection::kGroup).ok());
    const absl::StatusOr<wire::Bytes> body = (*file)->Next(wire::StateSection::kTensor);
    EXPECT_TRUE(body.ok()) << body.status();
    const absl::StatusOr<wire::StateTensor> tensor = wire::ParseStateTensor(*body);
    EXPECT_TRUE(tensor.ok()) << tensor.status();
    for (const wire::StateTensor::Vector& vector : tensor->vectors) {
      // A residual by any name waits together with what the owners of shards keep back.
      const bool waits = vector.name != "u" && vector.role != wire::MemoryRole::kReplicated;
      std::vector<double>& values = memories[waits ? "pending" : vector.name];
      values.resize(tensor->elements);
      const double a = vector.role == wire::MemoryRole::kOwn ? weight : 1.0;
      std::vector<double> own(vector.count());
      for (size_t i = 0; i < own.size(); ++i) {
        own[i] = a * double{wire::Load<float>(vector.values.data() + i * sizeof(float))};
        double& to = values[vector.begin + i];
        to = vector.role == wire::MemoryRole::kReplicated ? own[i] : to + own[i];
      }
      if (vector.name != "variance") sum_of_norms += Norm(own);
    }
    memories["applied"] = {static_cast<double>(tensor->applied)};
    memories["exchanges"] = {static_cast<double>(tensor->exchanges)};
    for (const wire::StateTensor::Counter& counter : tensor->counters) {
      memories[counter.name] = {static_cast<double>(counter.value)};
    }
    // All zero is what a state begins with.
    const auto zero = [](std::byte byte) { return byte == std::byte{0}; };
    if (!std::all_of(tensor->worker_state.begin(), tensor->worker_state.end(), zero)) {
      std::vector<double>& state = memories["worker_state"];
      state.clear();
      for (const std::byte byte : tensor->worker_state) state.push_back(static_cast<double>(byte));
    }
  }
  if (norms != nullptr) *norms = sum_of_norms;
  return memories;
}

}  // namespace terse::engine

#endif  // TERSE_TESTS_ENGINE_MEMORIES_H_
