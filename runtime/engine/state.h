// SPDX-License-Identifier: Apache-2.0
//
// What is saved of a group, and how it becomes the memory of another.
//
// Saved, of each rank: every memory of every tensor, the codec's states, counters (those of random numbers
// too), the plan in force, the position of warm-ups. A group of the same configuration and size that loads it
// goes on bit by bit. Not saved: masks, loss scale and parameters, which are the job's, and statistics.
//
// A group of another size N' takes over the memory of N ranks such that what waits is kept, by the role of
// each vector (wire::MemoryRole):
//   own         the sum of a e over the ranks, a being a gradient's weight (1/N for a mean, 1 for a sum): new
//               rank j has the sum of (a/a') e over the old ranks i with floor(i N'/N) = j, and 0 without any
//   replicated  as it is; the files must agree
//   shard       put together from the old shards, and cut as the new size asks
// Where the configuration asks for another row of the plan than it did when the state was saved, it goes
// over to it as from one plan to another (Engine::Switch); a row that a policy chose stays while the
// configuration does.
#ifndef TERSE_RUNTIME_ENGINE_STATE_H_
#define TERSE_RUNTIME_ENGINE_STATE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/wire/config.h"
#include "proto/wire/state.h"
#include "runtime/engine/tensor.h"

namespace terse::engine {

// Whether the rows ask for the same exchange, whatever their reasons.
bool SameExchange(const wire::PlanRow& a, const wire::PlanRow& b);

// The body of the tensor's section. `configured`: what the configuration says of it. Between steps.
std::vector<std::byte> SaveTensor(const wire::PlanRow& configured, int rank, int size, Tensor* tensor);

// INVALID_ARGUMENT names the first key in whose terms the state is kept and that differs.
absl::Status CheckSavedConfig(const wire::Config& config, std::string_view saved);

// Which old ranks' memory a rank takes over.
class Inheritance {
 public:
  Inheritance(uint32_t old_size, int size, int rank, wire::Reduce reduce);

  uint32_t old_size() const { return old_size_; }
  int size() const { return size_; }
  int rank() const { return rank_; }
  // The old ranks whose files are needed: the own one alone when the size stays.
  std::vector<uint32_t> Sources() const;
  bool Takes(uint32_t old_rank) const;
  float weight() const { return weight_; }  // of what it takes

 private:
  uint32_t old_size_;
  int size_;
  int rank_;
  float weight_;
};

// One tensor as it comes together from the sections of old ranks.
class TensorInheritance {
 public:
  // `now`: the tensor as it is registered and masked.
  TensorInheritance(const wire::Config& config, const Inheritance& from, const Tensor& now);

  // INVALID_ARGUMENT: a section of another tensor.
  absl::Status CheckTensor(const wire::StateTensor& saved) const;
  // In ascending order of ranks, those of from.Sources(). The tensor is the right one and its row has been
  // checked (Engine::CheckRow). DATA_LOSS: it contradicts those before.
  absl::Status Add(uint32_t old_rank, const wire::StateTensor& saved);
  // The tensor with its memory, by the row that was saved; after all were added.
  absl::StatusOr<std::unique_ptr<Tensor>> Finish();

 private:
  struct Vector {
    std::string name;
    wire::MemoryRole role = wire::MemoryRole::kOwn;
    uint32_t crc = 0;
    uint32_t files = 0;  // that have it
    bool taken = false;  // from one of them at least
    FloatVector values;
  };

  absl::Status AddVector(uint32_t old_rank, const wire::StateTensor::Vector& saved);
  absl::Status AddShard(uint32_t old_rank, const wire::StateTensor::Vector& saved, Vector* to);
  absl::Status AddCodecState(const wire::StateTensor& saved);
  absl::Status Bad(std::string_view what) const;
  // Moves the vector of that name to where it belongs; nothing when there is none.
  absl::Status Place(std::string_view name, wire::MemoryRole role, size_t elements, FloatVector* to);

  const wire::Config& config_;
  const Inheritance& from_;
  std::unique_ptr<Tensor> tensor_;
  uint32_t files_ = 0;
  std::vector<wire::StateTensor::Counter> counters_;
  std::vector<Vector> vectors_;
};

// A state that this rank has read and found good.
struct LoadedState {
  struct Row {
    std::unique_ptr<Tensor> tensor;
    wire::PlanRow row;  // to go over to
  };
  uint64_t save_id = 0;
  wire::StateGroup group;
  std::vector<Row> tensors;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_STATE_H_
