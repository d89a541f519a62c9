// SPDX-License-Identifier: Apache-2.0
//
// Where saved state lies, and how it gets there whole or not at all.
//
//   DIRECTORY/save-7/rank-0-of-4.terse ... rank-3-of-4.terse
//
// A save has a number, larger than that of every save before it, and a folder of its own. Each rank writes
// its file under a temporary name, makes it durable, and renames it only when all ranks have come so far; the
// saves before are removed only when all have renamed. So at any moment at least one save is whole, and a
// reader takes the newest that is.
//
// The directory may be one for all ranks, or one on each node. Errors name the path: NOT_FOUND,
// FAILED_PRECONDITION with the system's reason, DATA_LOSS and others as proto/wire/state.h says.
#ifndef TERSE_RUNTIME_ENGINE_STATE_FILES_H_
#define TERSE_RUNTIME_ENGINE_STATE_FILES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/wire/bytes.h"
#include "proto/wire/state.h"

namespace terse::engine {

// A save as the names in its folder tell.
struct StateSave {
  uint64_t number = 0;
  uint32_t world_size = 0;      // 0: no file, or files of several world sizes
  std::vector<uint32_t> ranks;  // whose files are there, ascending

  bool Has(uint32_t rank) const;
  bool whole() const { return world_size > 0 && ranks.size() == world_size; }
};

// All saves in `directory`, the newest first.
absl::StatusOr<std::vector<StateSave>> ListSaves(const std::string& directory);

// The folder for a new save; it and `directory` are made where they are missing.
absl::Status MakeSave(const std::string& directory, uint64_t number);

// Removes all other saves, as far as it can: what stays does no harm.
void RemoveOtherSaves(const std::string& directory, uint64_t number);

std::string StateFilePath(const std::string& directory, uint64_t number, uint32_t rank, uint32_t world_size);

// Writes one file. Destroyed before Publish has succeeded, it leaves nothing behind.
class StateFileWriter {
 public:
  static absl::StatusOr<std::unique_ptr<StateFileWriter>> Create(const std::string& path);
  ~StateFileWriter();

  absl::Status Append(wire::StateSection section, wire::Bytes body);
  // Of everything appended so far.
  uint64_t hash() const { return hash_; }
  // Writes the header, with the number of sections and bytes, and makes the file durable.
  absl::Status Seal(wire::StateHeader header);
  absl::Status Publish();

 private:
  StateFileWriter(std::string path, int file);
  absl::Status Write(wire::Bytes bytes, uint64_t at);

  const std::string path_;
  const std::string temporary_;
  int file_;
  uint32_t sections_ = 0;
  uint64_t bytes_ = wire::kStateHeaderBytes;
  uint64_t hash_;
};

// Reads one file, a section at a time.
class StateFileReader {
 public:
  // Opens the file and checks its header, and that it is the file of that rank of that save.
  static absl::StatusOr<std::unique_ptr<StateFileReader>> Open(const std::string& directory, uint64_t save,
                                                               uint32_t rank, uint32_t world_size);
  ~StateFileReader();

  const std::string& path() const { return path_; }
  const wire::StateHeader& header() const { return header_; }

  // The body of the next section, which must be of this kind; valid until the next call.
  absl::StatusOr<wire::Bytes> Next(wire::StateSection section);
  // After the last section.
  absl::Status End() const;
  // `status` with the path in front of its message.
  absl::Status Named(const absl::Status& status) const;

 private:
  StateFileReader(std::string path, int file);
  absl::Status Read(wire::MutableBytes to);

  const std::string path_;
  int file_;
  wire::StateHeader header_;
  uint64_t at_ = 0;
  uint32_t sections_ = 0;
  std::vector<std::byte> section_;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_STATE_FILES_H_
