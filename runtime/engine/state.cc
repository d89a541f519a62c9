// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/state.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/wire/text.h"

namespace terse::engine {
namespace {

// The one vector that no method keeps: the error of the second compression.
constexpr std::string_view kServerError = "server_error";

wire::Bytes BytesOf(const FloatVector& values) {
  return {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)};
}

// Keys in whose terms memories are kept. All others may change: what they decide is decided anew.
constexpr std::string_view kFixedKeys[] = {"method",       "reduce",     "error_feedback",
                                           "dgc.nesterov", "adam.beta1", "adam.beta2"};

std::map<std::string, std::string, std::less<>> LinesOf(std::string_view text) {
  std::map<std::string, std::string, std::less<>> lines;
  for (const absl::string_view line : absl::StrSplit(wire::View(text), '\n')) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits(" = ", 1));
    lines.insert(parts);
  }
  return lines;
}

}  // namespace

bool SameExchange(const wire::PlanRow& a, const wire::PlanRow& b) {
  wire::PlanRow other = b;
  other.reason = a.reason;
  return a == other;
}

std::vector<std::byte> SaveTensor(const wire::PlanRow& configured, int rank, int size, Tensor* tensor) {
  wire::StateTensor saved;
  saved.id = tensor->id;
  saved.name = tensor->name;
  saved.dtype = tensor->dtype;
  saved.shape = tensor->shape;
  saved.was_compressed = tensor->was_compressed;
  saved.elements = tensor->elements;
  saved.mask_hash = tensor->mask.hash();
  saved.row = tensor->planned;  // whether dense is faster is to be seen where the state is loaded
  saved.configured = configured;
  saved.applied = tensor->applied;
  saved.exchanges = tensor->exchanges;
  tensor->method->VisitCounters([&](std::string_view name, const uint64_t* value) {
    saved.counters.push_back({.name = std::string(name), .value = *value});
  });
  const auto add = [&](std::string_view name, wire::MemoryRole role, FloatVector* values) {
    if (values->empty()) return;
    saved.vectors.push_back(
        {.name = std::string(name), .role = role, .begin = 0, .values = BytesOf(*values), .crc = 0});
  };
  const wire::CodecParams& params = tensor->row.params;
  tensor->Materialize();
  tensor->method->VisitState(add);
  if (tensor->update != nullptr) tensor->update->VisitState(add);
  if (!tensor->server_residual.empty()) {
    add(kServerError, wire::MemoryRole::kShard, &tensor->server_residual);
    saved.vectors.back().begin = tensor->ShardOf(params, rank, size).begin;
  }
  saved.worker_state = tensor->worker_state;
  saved.server_state = tensor->server_state;
  return wire::EncodeStateTensor(saved);
}

absl::Status CheckSavedConfig(const wire::Config& config, std::string_view saved) {
  const auto then = LinesOf(saved);
  const auto now = LinesOf(wire::AgreedText(config));
  for (const std::string_view key : kFixedKeys) {
    const auto was = then.find(key);
    const auto is = now.find(key);
    if (was == then.end()) {
      return absl::DataLossError(absl::StrCat("its configuration has no key ", wire::View(key)));
    }
    if (was->second != is->second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "it was saved with ", wire::View(key), " = ", was->second, ", this group has ", is->second,
          "; memories are kept in terms of ", wire::View(key), ": set it as it was"));
    }
  }
  return absl::OkStatus();
}

Inheritance::Inheritance(uint32_t old_size, int size, int rank, wire::Reduce reduce)
    : old_size_(old_size), size_(size), rank_(rank), weight_(1.0f) {
  if (reduce == wire::Reduce::kMean && old_size != static_cast<uint32_t>(size)) {
    weight_ = static_cast<float>(static_cast<double>(size) / static_cast<double>(old_size));
  }
}

std::vector<uint32_t> Inheritance::Sources() const {
  if (old_size_ == static_cast<uint32_t>(size_)) return {static_cast<uint32_t>(rank_)};
  std::vector<uint32_t> all(old_size_);
  for (uint32_t r = 0; r < old_size_; ++r) all[r] = r;
  return all;
}

bool Inheritance::Takes(uint32_t old_rank) const {
  return uint64_t{old_rank} * static_cast<uint64_t>(size_) / old_size_ == static_cast<uint64_t>(rank_);
}

TensorInheritance::TensorInheritance(const wire::Config& config, const Inheritance& from, const Tensor& now)
    : config_(config), from_(from), tensor_(std::make_unique<Tensor>()) {
  tensor_->id = now.id;
  tensor_->name = now.name;
  tensor_->dtype = now.dtype;
  tensor_->shape = now.shape;
  tensor_->job_elements = now.job_elements;
  tensor_->elements = now.elements;
  tensor_->mask = now.mask;
  tensor_->next_mask = now.next_mask;
  tensor_->one_rank = now.one_rank;
  tensor_->world_size = now.world_size;
  tensor_->stats = now.stats;
}

absl::Status TensorInheritance::Bad(std::string_view what) const {
  return absl::DataLossError(absl::StrCat("tensor '", tensor_->name, "': ", wire::View(what)));
}

absl::Status TensorInheritance::CheckTensor(const wire::StateTensor& saved) const {
  const auto line = [](const std::string& name, wire::DType dtype, const std::vector<int64_t>& shape) {
    return absl::StrCat("'", name, "' ", wire::View(wire::Name(dtype)), " [", absl::StrJoin(shape, ", "),
                        "]");
  };
  const std::string was = line(saved.name, saved.dtype, saved.shape);
  const std::string is = line(tensor_->name, tensor_->dtype, tensor_->shape);
  if (saved.id != tensor_->id || was != is) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", was, " as tensor ", saved.id, " where ", is, " is registered as tensor ",
                     tensor_->id, "; register the same tensors in the same order before loading"));
  }
  if (saved.mask_hash != tensor_->mask.hash() || saved.elements != tensor_->elements) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", tensor_->name, "' was saved under a mask that left ", saved.elements,
                     " elements, and has one now that leaves ", tensor_->elements,
                     "; set the same mask before loading, and change it afterwards"));
  }
  return absl::OkStatus();
}

absl::Status TensorInheritance::Add(uint32_t old_rank, const wire::StateTensor& saved) {
  const auto same = [](const wire::StateTensor::Counter& a, const wire::StateTensor::Counter& b) {
    return a.name == b.name && a.value == b.value;
  };
  if (files_++ == 0) {
    tensor_->SetRow(saved.row);
    tensor_->was_compressed = saved.was_compressed;
    tensor_->applied = saved.applied;
    tensor_->exchanges = saved.exchanges;
    counters_ = saved.counters;
  } else if (!SameExchange(saved.row, tensor_->row) || saved.applied != tensor_->applied ||
             saved.was_compressed != tensor_->was_compressed || saved.exchanges != tensor_->exchanges ||
             !std::equal(saved.counters.begin(), saved.counters.end(), counters_.begin(), counters_.end(),
                         same)) {
    return Bad("its plan or its counters are others than in the first file");
  }
  for (const wire::StateTensor::Vector& vector : saved.vectors) {
    if (absl::Status status = AddVector(old_rank, vector); !status.ok()) return status;
  }
  return AddCodecState(saved);
}

absl::Status TensorInheritance::AddVector(uint32_t old_rank, const wire::StateTensor::Vector& saved) {
  auto found = std::find_if(vectors_.begin(), vectors_.end(),
                            [&](const Vector& vector) { return vector.name == saved.name; });
  const size_t count = saved.count();
  if (found == vectors_.end()) {
    found = vectors_.insert(found, {.name = saved.name, .role = saved.role, .crc = saved.crc, .values = {}});
    if (saved.role != wire::MemoryRole::kShard) found->values.resize(count);
  }
  if (saved.role != found->role) return Bad("a vector that has two roles");
  ++found->files;
  if (saved.role == wire::MemoryRole::kShard) return AddShard(old_rank, saved, &*found);
  if (found->values.size() != count) return Bad("a vector that has two sizes");

  const std::byte* const from = saved.values.data();
  float* const to = found->values.data();
  if (saved.role == wire::MemoryRole::kReplicated) {
    if (saved.crc != found->crc) {
      return Bad(absl::StrCat("'", saved.name, "', which all ranks must have alike, differs in their files"));
    }
    if (found->files == 1 && count > 0) std::memcpy(to, from, saved.values.size());
    return absl::OkStatus();
  }
  if (!from_.Takes(old_rank)) return absl::OkStatus();
  constexpr float kMost = std::numeric_limits<float>::max();
  const float weight = from_.weight();
  const bool first = !std::exchange(found->taken, true);
  for (size_t i = 0; i < count; ++i) {
    const float share = weight * wire::Load<float>(from + i * sizeof(float));
    // Assigned, not added to 0: a -0 stays one.
    to[i] = std::clamp(first ? share : to[i] + share, -kMost, kMost);
  }
  return absl::OkStatus();
}

absl::Status TensorInheritance::AddShard(uint32_t old_rank, const wire::StateTensor::Vector& saved,
                                         Vector* to) {
  const wire::CodecParams& params = tensor_->row.params;
  const Shard old = tensor_->ShardOf(params, static_cast<int>(old_rank), static_cast<int>(from_.old_size()));
  if (saved.begin != old.begin || saved.count() != old.end - old.begin) {
    return Bad("a shard that is not the one its rank owns");
  }
  const Shard own = tensor_->ShardOf(params, from_.rank(), from_.size());
  to->values.resize(own.end - own.begin);
  const size_t begin = std::max(old.begin, own.begin);
  const size_t end = std::min(old.end, own.end);
  if (begin < end) {
    std::memcpy(to->values.data() + (begin - own.begin),
                saved.values.data() + (begin - old.begin) * sizeof(float), (end - begin) * sizeof(float));
  }
  return absl::OkStatus();
}

// A linear codec's state is equal on all ranks. Any other belongs to its rank, or to a shard, and starts anew
// under another size: the residual has been made plain.
absl::Status TensorInheritance::AddCodecState(const wire::StateTensor& saved) {
  if (from_.Sources().size() > 1 && tensor_->codec->kind() != Kind::kLinear) return absl::OkStatus();
  const std::vector<std::byte> state(saved.worker_state.begin(), saved.worker_state.end());
  if (files_ > 1 && state != tensor_->worker_state) return Bad("the codec's state differs in the files");
  tensor_->worker_state = state;
  tensor_->server_state.assign(saved.server_state.begin(), saved.server_state.end());
  return absl::OkStatus();
}

absl::Status TensorInheritance::Place(std::string_view name, wire::MemoryRole role, size_t elements,
                                      FloatVector* to) {
  const auto found = std::find_if(vectors_.begin(), vectors_.end(),
                                  [&](const Vector& vector) { return vector.name == name; });
  if (found == vectors_.end()) return absl::OkStatus();
  if (found->role != role || found->values.size() != elements) {
    return Bad(absl::StrCat("vector '", found->name, "' has ", found->values.size(), " elements and role ",
                            wire::View(wire::Name(found->role)), "; ", elements, " and ",
                            wire::View(wire::Name(role)), " were due"));
  }
  if (role == wire::MemoryRole::kReplicated && found->files != files_) {
    return Bad(absl::StrCat("'", found->name, "', which all ranks must have, is missing in some files"));
  }
  *to = std::move(found->values);
  vectors_.erase(found);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tensor>> TensorInheritance::Finish() {
  Tensor& tensor = *tensor_;
  tensor.method = MakeTensorMethod(config_, tensor.Facts());
  absl::Status status;
  const auto place = [&](size_t elements) {
    return [this, elements, &status](std::string_view name, wire::MemoryRole role, FloatVector* values) {
      if (status.ok()) status = Place(name, role, elements, values);
    };
  };
  tensor.method->VisitState(place(tensor.elements));
  const Shard own = tensor.ShardOf(tensor.row.params, from_.rank(), from_.size());
  if (status.ok()) {
    status = Place(kServerError, wire::MemoryRole::kShard, own.end - own.begin, &tensor.server_residual);
  }
  if (status.ok() && !vectors_.empty()) {
    tensor.update = MakeParameterUpdate(config_, tensor.job_elements);
    tensor.update->VisitState(place(tensor.job_elements));
  }
  if (!status.ok()) return status;
  if (!vectors_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", tensor.name, "' has saved ", vectors_[0].name,
                     ", which this configuration does not keep; load it with the "
                     "configuration it was saved under"));
  }
  if (!tensor.server_residual.empty() && tensor.method->residual().size() != tensor.elements) {
    return Bad("an owner's error without a residual");
  }
  size_t known = 0;
  size_t visited = 0;
  tensor.method->VisitCounters([&](std::string_view name, uint64_t* value) {
    ++visited;
    for (const wire::StateTensor::Counter& counter : counters_) {
      if (counter.name != name) continue;
      *value = counter.value;
      ++known;
    }
  });
  if (known != visited || counters_.size() != visited) return Bad("its counters are not those of its method");
  return std::move(tensor_);
}

}  // namespace terse::engine
