// SPDX-License-Identifier: Apache-2.0
#include "transport/inproc/world.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace terse::transport {

void Inbox::Post(const MessageKey& key, Payload payload) {
  MutexLock lock(mutex_);
  messages_.emplace(key, std::move(payload));
  ++events_;
  changed_.NotifyAll();
}

void Inbox::MarkGone(int source) {
  MutexLock lock(mutex_);
  gone_[static_cast<size_t>(source)] = true;
  ++events_;
  changed_.NotifyAll();
}

bool Inbox::Gone(int source) const {
  MutexLock lock(mutex_);
  return gone_[static_cast<size_t>(source)];
}

Payload Inbox::Take(const MessageKey& key) {
  MutexLock lock(mutex_);
  auto node = messages_.extract(key);
  return node.empty() ? nullptr : std::move(node.mapped());
}

uint64_t Inbox::events() const {
  MutexLock lock(mutex_);
  return events_;
}

bool Inbox::WaitForEvent(uint64_t seen, std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mutex_);
  while (events_ == seen) {
    if (!changed_.WaitUntil(mutex_, deadline)) return events_ != seen;
  }
  return true;
}

World::World(uint64_t world_id, int size) : id(world_id) {
  for (int rank = 0; rank < size; ++rank) inboxes.push_back(std::make_unique<Inbox>(size));
}

namespace {

// A group that is forming. It leaves the table when it is complete, so that the next comer under the
// same name starts a new one.
struct Meeting {
  std::vector<bool> present;
  int missing = 0;
  std::shared_ptr<World> world;  // set when complete
};

struct MeetingPoint {
  Mutex mutex;
  CondVar changed;
  uint64_t worlds ABSL_GUARDED_BY(mutex) = 0;
  std::map<std::pair<std::string, int>, std::shared_ptr<Meeting>> meetings ABSL_GUARDED_BY(mutex);
};

MeetingPoint& TheMeetingPoint() {
  static MeetingPoint* const point = new MeetingPoint;  // never destroyed: threads may outlive main
  return *point;
}

std::string Absentees(const Meeting& meeting) {
  std::vector<size_t> absent;
  for (size_t i = 0; i < meeting.present.size(); ++i) {
    if (!meeting.present[i]) absent.push_back(i);
  }
  return absl::StrJoin(absent, ", ");
}

}  // namespace

absl::StatusOr<std::shared_ptr<World>> Meet(const std::string& place, int index, int size,
                                            std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MeetingPoint& point = TheMeetingPoint();
  MutexLock lock(point.mutex);
  const auto key = std::make_pair(place, size);
  std::shared_ptr<Meeting>& entry = point.meetings[key];
  if (entry == nullptr) {
    entry = std::make_shared<Meeting>();
    entry->present.resize(static_cast<size_t>(size), false);
    entry->missing = size;
  }
  const std::shared_ptr<Meeting> meeting = entry;
  const auto me = static_cast<size_t>(index);
  if (meeting->present[me]) {
    return absl::AlreadyExistsError(
        absl::StrCat("inproc group '", place, "': two threads came as rank ", index, " of ", size));
  }
  meeting->present[me] = true;
  if (--meeting->missing == 0) {
    meeting->world = std::make_shared<World>(++point.worlds, size);
    point.meetings.erase(key);
    point.changed.NotifyAll();
  }
  while (meeting->world == nullptr) {
    if (point.changed.WaitUntil(point.mutex, deadline) || meeting->world != nullptr) continue;
    absl::Status late = absl::DeadlineExceededError(
        absl::StrCat("inproc group '", place, "' of ", size, " ranks: rank(s) ", Absentees(*meeting),
                     " did not come within ", timeout.count(), " ms"));
    // This rank leaves; others may still wait, and a later comer can take its place.
    meeting->present[me] = false;
    if (++meeting->missing == size) point.meetings.erase(key);
    return late;
  }
  return meeting->world;
}

}  // namespace terse::transport
