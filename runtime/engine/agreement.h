// SPDX-License-Identifier: Apache-2.0
//
// Agreement between the ranks before anything is exchanged. Every collective entry of the engine begins
// with one small all-gather of announcements: what this rank is about to do. Equal announcements let the
// call go on; different ones cost a second round in which the ranks exchange their situation in words, so
// that every rank names the same first difference. Nothing has been exchanged or changed by then: the
// group stays usable.
//
// docs/decisions/0004 and 0008 say why this is a round of its own.
#ifndef TERSE_RUNTIME_ENGINE_AGREEMENT_H_
#define TERSE_RUNTIME_ENGINE_AGREEMENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/bytes.h"
#include "runtime/engine/buffer.h"
#include "runtime/engine/trace.h"
#include "transport/transport.h"

namespace terse::engine {

// What a rank is about to do.
enum class Intent : uint32_t {
  kConfigure = 1,  // open: compare configurations
  kSettle = 2,     // exchange what all ranks have submitted
  kStep = 3,
  kClose = 4,
  kSaveState = 5,
  kLoadState = 6,
};
inline constexpr Intent kLastIntent = Intent::kLoadState;  // a greater one is refused

struct Announcement {
  Intent intent = Intent::kSettle;
  uint64_t step = 0;
  uint64_t ordinal = 0;  // number of the agreement: a lost or doubled round cannot go unnoticed
  uint32_t tensor_count = 0;
  uint64_t table_hash = 0;  // configuration (kConfigure) or tensor table, masks, global batch
  uint64_t value = 0;       // bits of a double: kStep: applied; kSettle: the loss scale
  bool freeze = false;      // kStep: this rank finds the variance settled. Rank 0's counts
  bool testing = false;     // kSettle: this rank does not wait for anything. Not compared
  // kSettle, kStep: what exchanges before this round took on this rank, in ms; their order is the same on all
  // ranks. Not compared.
  static constexpr size_t kMostTimes = 1024;
  static constexpr float kNoTime = -1.0f;
  std::vector<float> times;
  std::vector<std::byte> submitted;  // kSettle: bit i set: tensor i is submitted. Not compared
};

// An announcement as bytes, and back.
//   DATA_LOSS  too short, too long, a foreign magic, or a number that names no intent or flag or is no
//              time: its sender speaks a later version
std::vector<std::byte> EncodeAnnouncement(const Announcement& announcement);
absl::StatusOr<Announcement> ParseAnnouncement(wire::Bytes bytes);

// The announcements of all ranks, by rank.
using Announcements = std::vector<Announcement>;

class Agreement {
 public:
  // `group` outlives this. Waits are bounded by `patience`.
  Agreement(transport::Group* group, std::chrono::milliseconds patience)
      : group_(group), patience_(patience) {}

  // Where rounds are noted; null: nowhere. Outlives this.
  void SetTrace(Trace* trace) { trace_ = trace; }

  // One round. `describe` gives this rank's situation, one fact a line; it is called on a difference.
  //   ABORTED  the ranks differ; the message names the first line that does
  absl::StatusOr<Announcements> Agree(Announcement mine, const std::function<std::string()>& describe);

  // The same without blocking: Start once, then Poll until it gives a value. Agree must not be called
  // between; pending() tells.
  absl::Status Start(Announcement mine);
  absl::StatusOr<bool> Poll();  // true: call Finish
  absl::StatusOr<Announcements> Finish(const std::function<std::string()>& describe);
  // Drops a round that was started, before the group goes.
  void Abandon() { operation_.reset(); }
  bool pending() const { return operation_ != nullptr; }

  // Makes all ranks fail with the first line in which their descriptions differ (ABORTED on every rank).
  absl::Status NameDifference(const std::function<std::string()>& describe);

  // Each rank's text, by rank, of at most kMostShared bytes; or, on all ranks, the error of the first rank
  // that came with one, in *failed. The result is an error when the ranks could not talk.
  static constexpr size_t kMostShared = 4096;
  absl::StatusOr<std::vector<std::string>> Share(const absl::StatusOr<std::string>& mine,
                                                 absl::Status* failed);

 private:
  // Each rank's text, cut to `most` bytes.
  absl::StatusOr<std::vector<std::string>> GatherTexts(std::string text, size_t most);

  transport::Group* group_;
  std::chrono::milliseconds patience_;
  Trace* trace_ = nullptr;
  uint64_t ordinal_ = 0;
  std::vector<std::byte> own_;
  Buffer<std::byte> slots_;
  std::vector<size_t> lengths_;
  std::unique_ptr<transport::Operation> operation_;
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_AGREEMENT_H_
