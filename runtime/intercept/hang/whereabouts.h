// SPDX-License-Identifier: Apache-2.0
//
// Where this rank is in its all-reduces, written by the calls and read by the watch (watch.h) while they
// wait. A call that waits holds none of the locks here. Knows nothing of MPI. Any thread.
#ifndef TERSE_RUNTIME_INTERCEPT_HANG_WHEREABOUTS_H_
#define TERSE_RUNTIME_INTERCEPT_HANG_WHEREABOUTS_H_

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/intercept/signature.h"

namespace terse::intercept {

// What all ranks of a communicator call it alike.
struct CommunicatorKey {
  uint64_t members = 0;   // CommunicatorFacts::members
  uint32_t instance = 0;  // among those of the same members, by the order of their first calls
  friend bool operator==(const CommunicatorKey&, const CommunicatorKey&) = default;
};
// MPI_Finalize is waited in like in a call of the world; it has no number.
inline constexpr uint32_t kFinalize = 0xffffffffu;

enum class Stage : uint8_t {
  kInside,   // the call has been entered and not left
  kLeft,     // the last call is over; a nonblocking one has been started
  kFailed,   // the last call gave an error, and does not count
  kWaiting,  // in MPI_Wait or one of its relatives, for a call that was started before
};

// Where a rank was at one moment.
struct Place {
  CommunicatorKey communicator;
  std::string name;      // of the communicator; may be empty
  int32_t size = 0;      // its ranks
  uint64_t ordinal = 0;  // the last call's; the first has 1
  Stage stage = Stage::kLeft;
  Signature signature;  // without the size of a derived type
  double seconds = 0;   // inside, in the wait, or since the last call was left

  bool waits() const { return stage == Stage::kInside || stage == Stage::kWaiting; }
};

// A rank's place in one communicator. Calls of one communicator come one after the other, as MPI demands.
class Whereabouts {
 public:
  using Ranks = std::shared_ptr<const std::vector<int>>;  // in MPI_COMM_WORLD; negative: outside of it

  Whereabouts(const CommunicatorKey& key, std::string name, Ranks ranks)
      : key_(key), name_(std::move(name)), ranks_(std::move(ranks)) {}

  // A few nanoseconds. `now` is of tick.h.
  void Enter(const Signature& signature, int64_t now) {
    const uint64_t version = Begin();
    ordinal_.store(ordinal_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    count_.store(signature.count, std::memory_order_release);
    kind_.store(Pack(signature, Stage::kInside), std::memory_order_release);
    since_.store(now, std::memory_order_release);
    End(version);
  }
  // One that failed had no part in what the other ranks did: the next has its number again.
  void Leave(bool succeeded, int64_t now) {
    const uint64_t version = Begin();
    const uint64_t stage = static_cast<uint64_t>(succeeded ? Stage::kLeft : Stage::kFailed);
    if (!succeeded) ordinal_.store(ordinal_.load(std::memory_order_relaxed) - 1, std::memory_order_release);
    kind_.store((kind_.load(std::memory_order_relaxed) & ~uint64_t{0xff}) | stage, std::memory_order_release);
    since_.store(now, std::memory_order_release);
    End(version);
  }
  uint64_t ordinal() const { return ordinal_.load(std::memory_order_relaxed); }

  // False where no call has come yet, or calls come too fast to see one of them whole.
  bool Look(int64_t now, double seconds_per_tick, Place* place) const;

  const CommunicatorKey& key() const { return key_; }
  const std::string& name() const { return name_; }
  const Ranks& ranks() const { return ranks_; }

 private:
  // The version is odd while a call writes. Every store after it releases, so whoever reads a new value
  // sees the new version, too.
  uint64_t Begin() {
    const uint64_t version = version_.load(std::memory_order_relaxed) | 1;
    version_.store(version, std::memory_order_relaxed);
    return version;
  }
  void End(uint64_t version) { version_.store(version + 1, std::memory_order_release); }
  static uint64_t Pack(const Signature& signature, Stage stage) {
    return (static_cast<uint64_t>(static_cast<uint16_t>(signature.type)) << 32) |
           (static_cast<uint64_t>(static_cast<uint16_t>(signature.op)) << 16) |
           (static_cast<uint64_t>(signature.form) << 8) | static_cast<uint64_t>(stage);
  }

  const CommunicatorKey key_;
  const std::string name_;
  const Ranks ranks_;
  std::atomic<uint64_t> version_{0};
  std::atomic<uint64_t> ordinal_{0};
  std::atomic<int64_t> count_{0};
  std::atomic<uint64_t> kind_{static_cast<uint64_t>(Stage::kLeft)};
  std::atomic<int64_t> since_{0};
};

// All of a rank's places.
class Board {
 public:
  static constexpr size_t kMost = 4096;  // communicators at a time, and groups of ranks

  // A communicator's first call is coming. Null where there are too many: it is not watched then. It leaves
  // the board when the caller drops it.
  std::shared_ptr<Whereabouts> Add(uint64_t members, const std::string& name, const std::vector<int>& ranks);
  // As above, for kFinalize.
  std::shared_ptr<Whereabouts> AddFinalize(const std::vector<int>& ranks);

  struct Seen {
    Place place;
    Whereabouts::Ranks ranks;
  };
  // Where calls have come, in no order.
  std::vector<Seen> Look(int64_t now, double seconds_per_tick) const;

 private:
  friend class Waiting;
  struct Wait {
    std::shared_ptr<const Whereabouts> where;
    uint64_t ordinal;
    Signature signature;
    int64_t since;
  };

  std::shared_ptr<Whereabouts> AddLocked(const CommunicatorKey& key, const std::string& name,
                                         const std::vector<int>& ranks);

  mutable std::mutex mutex_;  // held for no longer than a look
  std::vector<std::weak_ptr<Whereabouts>> places_;
  std::unordered_map<uint64_t, uint32_t> instances_;  // by members
  std::list<Wait> waits_;
};

// While it lives its thread waits for a call that was started before: MPI_Wait and its relatives. `ordinal`
// is what `where` gave after that call was entered. `board` outlives it.
class Waiting {
 public:
  Waiting(Board* board, std::shared_ptr<const Whereabouts> where, uint64_t ordinal,
          const Signature& signature, int64_t now);
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  Board* const board_;
  std::list<Board::Wait>::iterator wait_;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_HANG_WHEREABOUTS_H_
