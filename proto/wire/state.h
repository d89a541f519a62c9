// SPDX-License-Identifier: Apache-2.0
//
// The file in which one rank's state is kept: its bytes, and what a reader checks before it believes them.
// What is put in and what becomes of it is the engine's affair (runtime/engine/state.h). Layout byte by byte:
// docs/state_format.md.
//
// A file is a header and sections, each with a checksum of its own: the configuration, the group, and one a
// tensor. It is written and read section by section, so that no more than a tensor is in memory twice.
//
// Errors of the parsers: DATA_LOSS for bytes that were changed, cut off or never were such a file;
// FAILED_PRECONDITION for another version. They say what was found; the caller adds in which file.
#ifndef TERSE_PROTO_WIRE_STATE_H_
#define TERSE_PROTO_WIRE_STATE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/wire/bytes.h"
#include "proto/wire/plan.h"
#include "proto/wire/types.h"

namespace terse::wire {

inline constexpr uint32_t kStateVersion = 1;
inline constexpr size_t kStateHeaderBytes = 64;
inline constexpr size_t kStateSectionBytes = 16;  // in front of a section's body
inline constexpr size_t kStateChecksumBytes = 4;  // behind it
inline constexpr uint32_t kMostStateRanks = 1u << 20;

struct StateHeader {
  uint32_t sections = 0;
  uint32_t rank = 0;
  uint32_t world_size = 1;
  uint64_t save = 0;        // number of the save in its directory: later ones have larger numbers
  uint64_t save_id = 0;     // equal in the files of one save, and in no others
  uint64_t file_bytes = 0;  // header included
  uint64_t step = 0;

  friend bool operator==(const StateHeader&, const StateHeader&) = default;
};

std::vector<std::byte> EncodeStateHeader(const StateHeader& header);
absl::StatusOr<StateHeader> ParseStateHeader(Bytes bytes);

// The order of sections in a file: one kConfig, one kGroup, a kTensor for each tensor.
enum class StateSection : uint32_t { kConfig = 1, kGroup = 2, kTensor = 3 };

// Header, body and checksum of a section.
std::vector<std::byte> SealStateSection(StateSection section, Bytes body);

// What stands in front of a body. `left`: bytes of the file behind it, which the body must fit into.
struct StateSectionHeader {
  StateSection section = StateSection::kConfig;
  uint64_t body_bytes = 0;
};
absl::StatusOr<StateSectionHeader> ParseStateSectionHeader(Bytes bytes, uint64_t left);
// The body of a whole section, as SealStateSection made it.
absl::StatusOr<Bytes> OpenStateSection(Bytes section);

// What all ranks have alike, besides the configuration (a section of its own: AgreedText).
struct StateGroup {
  uint64_t step = 0;
  uint64_t skipped = 0;
  int64_t global_batch = 0;  // 0: never set
  uint32_t plan_version = 0;
  uint32_t tensors = 0;
  // onebit_adam: when the variance is frozen. Zeros for the other methods.
  bool frozen = false;
  bool handing_on = false;
  uint64_t warmup_steps = 0;
  uint64_t frozen_at = 0;
  std::vector<double> history;

  friend bool operator==(const StateGroup&, const StateGroup&) = default;
};

// Parsed values point into the section.
struct StateTensor {
  // A named vector of fp32. A shard has the elements from `begin` on; the others begin at 0.
  struct Vector {
    std::string name;
    MemoryRole role = MemoryRole::kOwn;
    uint64_t begin = 0;
    Bytes values;      // fp32, not aligned
    uint32_t crc = 0;  // of values; the encoder computes it
    size_t count() const { return values.size() / sizeof(float); }
  };
  struct Counter {
    std::string name;
    uint64_t value = 0;
  };

  uint32_t id = 0;
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  bool was_compressed = false;
  uint64_t elements = 0;   // that take part in exchanges
  uint64_t mask_hash = 0;  // 0: all do
  PlanRow row;             // in force
  PlanRow configured;      // what the configuration said: equal unless a policy changed it
  uint64_t applied = 0;
  uint64_t exchanges = 0;
  std::vector<Counter> counters;
  std::vector<Vector> vectors;
  Bytes worker_state;  // the codec's
  Bytes server_state;
};

std::vector<std::byte> EncodeStateGroup(const StateGroup& group);
absl::StatusOr<StateGroup> ParseStateGroup(Bytes body);
std::vector<std::byte> EncodeStateTensor(const StateTensor& tensor);
// Counts, sizes and enumerations are in range, names of counters and of vectors differ, vectors lie within
// the tensor and hold finite numbers (but for replicated ones, which may have overflowed as the job's
// parameters have). Whether the rows make sense is for the engine to say.
absl::StatusOr<StateTensor> ParseStateTensor(Bytes body);

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_STATE_H_
