// SPDX-License-Identifier: Apache-2.0
//
// What the threads of an inproc group share: one inbox per rank, and the meeting point where the ranks
// of a group find each other.
#ifndef TERSE_TRANSPORT_INPROC_WORLD_H_
#define TERSE_TRANSPORT_INPROC_WORLD_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "transport/inproc/mutex.h"

namespace terse::transport {

// Shared by all receivers of a message; written before it is posted, never after.
using Payload = std::shared_ptr<const std::vector<std::byte>>;

// Which message: the number-th that `source` sent to this inbox with `tag`.
struct MessageKey {
  int source = 0;
  int tag = 0;
  uint64_t number = 0;
  auto operator<=>(const MessageKey&) const = default;
};

// The messages that came for one rank. Thread-safe.
class Inbox {
 public:
  explicit Inbox(int world_size) : gone_(static_cast<size_t>(world_size), false) {}

  void Post(const MessageKey& key, Payload payload);

  // `source` posts nothing any more. What it posted before stays to be taken.
  void MarkGone(int source);
  bool Gone(int source) const;

  // Takes the message, or null when it has not come.
  Payload Take(const MessageKey& key);

  // Number of Posts and MarkGones so far, and a wait until it differs from `seen`: false when `deadline`
  // passed first.
  uint64_t events() const;
  bool WaitForEvent(uint64_t seen, std::chrono::steady_clock::time_point deadline);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  uint64_t events_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<MessageKey, Payload> messages_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> gone_ ABSL_GUARDED_BY(mutex_);
};

// The inboxes of one group, owned by its members together.
struct World {
  World(uint64_t world_id, int size);

  const uint64_t id;  // unique in the process
  std::vector<std::unique_ptr<Inbox>> inboxes;
};

// Blocks until `size` threads have met under `place`, each with an index of its own, and gives all of
// them the same new world. Errors as OpenInproc. Thread-safe.
absl::StatusOr<std::shared_ptr<World>> Meet(const std::string& place, int index, int size,
                                            std::chrono::milliseconds timeout);

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_INPROC_WORLD_H_
