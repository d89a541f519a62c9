// SPDX-License-Identifier: Apache-2.0
//
// What the all-reduces of one communicator were: how many of what signature, at which position of the
// learned period, how many bytes, how long. Bounded in memory, whatever the program does. Not thread-safe.
#ifndef TERSE_RUNTIME_INTERCEPT_TRAFFIC_H_
#define TERSE_RUNTIME_INTERCEPT_TRAFFIC_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/intercept/period.h"
#include "runtime/intercept/signature.h"

namespace terse::intercept {

struct Tally {
  int64_t calls = 0;
  int64_t ticks = 0;  // within the calls; a unit of its own (tick.h)

  void Add(const Tally& other) {
    calls += other.calls;
    ticks += other.ticks;
  }
};

// The calls of one signature through one binding: at a position of the period, or (-1) outside of any.
struct Site {
  Signature signature;
  Binding binding = Binding::kC;
  int32_t position = -1;
  Tally tally;
};

class Traffic {
 public:
  // More different calls than this are counted together, as `other`.
  static constexpr size_t kMostSites = 4096;

  // Takes a call that has been made. Its position in the period, or -1.
  int32_t Record(const Signature& signature, Binding binding, int64_t ticks) {
    const PeriodLearner::Outcome outcome = learner_.Next(signature.Hash());
    if (outcome.position >= 0) {
      Site& site = positions_[static_cast<size_t>(outcome.position)];
      ++site.tally.calls;
      site.tally.ticks += ticks;
      site.signature = signature;
      site.binding = binding;
      return outcome.position;
    }
    RecordOutside(signature, binding, ticks, outcome.event);
    return -1;
  }

  // The positions of the period that was learned last, in order, then all other calls, in the order of
  // their first. Calls of an earlier period are among the others.
  std::vector<Site> Sites() const;
  const PeriodLearner& period() const { return learner_; }
  const Tally& other() const { return other_; }

 private:
  struct Key {
    Signature signature;
    Binding binding;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return static_cast<size_t>(key.signature.Hash() + static_cast<uint64_t>(key.binding));
    }
  };

  void RecordOutside(const Signature& signature, Binding binding, int64_t ticks, PeriodLearner::Event event);
  void AddOutside(const Signature& signature, Binding binding, const Tally& tally);

  PeriodLearner learner_;
  std::vector<Site> positions_;
  std::vector<Site> outside_;
  std::unordered_map<Key, size_t, KeyHash> outside_index_;
  Tally other_;
};

// What a communicator is to all of its ranks alike.
struct CommunicatorFacts {
  std::string name;  // as the program or MPI named it; may be empty
  int32_t size = 0;
  uint64_t members = 0;  // a hash of the ranks in MPI_COMM_WORLD that it consists of
  bool inter = false;
  bool threads = false;  // all ranks of the job have MPI_THREAD_MULTIPLE

  bool SameAs(const CommunicatorFacts& other) const {
    return size == other.size && members == other.members && inter == other.inter;
  }
};

// The traffic of one communicator, or of several of the same ranks that did the same: programs that make
// and free communicators in a loop.
struct CommunicatorRecord {
  CommunicatorFacts facts;
  int64_t instances = 1;
  int32_t period = 0;  // calls; 0: none learned
  int64_t deviations = 0;
  Tally other;
  std::vector<Site> sites;
  // Where calls were compressed, or were to be.
  int64_t compressed_calls = 0;
  std::string group;  // the report of libterse (docs/report.md), of the last instance
  std::string error;  // what kept calls from being compressed

  bool SameAs(const CommunicatorRecord& record) const;
  void Add(const CommunicatorRecord& record);  // requires SameAs
};

CommunicatorRecord MakeRecord(const CommunicatorFacts& facts, const Traffic& traffic);

// The records of a process.
class Ledger {
 public:
  static constexpr size_t kMostRecords = 1024;

  void Add(CommunicatorRecord record);
  const std::vector<CommunicatorRecord>& records() const { return records_; }
  // Of communicators beyond kMostRecords.
  const Tally& other() const { return other_; }
  int64_t other_instances() const { return other_instances_; }

 private:
  std::vector<CommunicatorRecord> records_;
  Tally other_;
  int64_t other_instances_ = 0;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_TRAFFIC_H_
