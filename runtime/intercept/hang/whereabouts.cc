// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/hang/whereabouts.h"

#include <algorithm>

namespace terse::intercept {
namespace {

// A call writes for a few nanoseconds; a reader that meets so many of them in a row leaves the place out.
constexpr int kMostLooks = 100;

double SecondsSince(int64_t since, int64_t now, double seconds_per_tick) {
  return std::max(0.0, static_cast<double>(now - since) * seconds_per_tick);
}

}  // namespace

bool Whereabouts::Look(int64_t now, double seconds_per_tick, Place* place) const {
  for (int i = 0; i < kMostLooks; ++i) {
    const uint64_t version = version_.load(std::memory_order_acquire);
    if (version == 0) return false;
    const uint64_t ordinal = ordinal_.load(std::memory_order_acquire);
    const int64_t count = count_.load(std::memory_order_acquire);
    const uint64_t kind = kind_.load(std::memory_order_acquire);
    const int64_t since = since_.load(std::memory_order_acquire);
    if (version % 2 != 0 || version_.load(std::memory_order_relaxed) != version) continue;
    place->communicator = key_;
    place->name = name_;
    place->size = static_cast<int32_t>(ranks_->size());
    place->ordinal = ordinal;
    place->stage = static_cast<Stage>(kind & 0xff);
    place->signature = {.count = count,
                        .type = static_cast<int16_t>(kind >> 32),
                        .op = static_cast<int16_t>(kind >> 16),
                        .form = static_cast<Form>((kind >> 8) & 0xff)};
    place->seconds = SecondsSince(since, now, seconds_per_tick);
    return true;
  }
  return false;
}

std::shared_ptr<Whereabouts> Board::Add(uint64_t members, const std::string& name,
                                        const std::vector<int>& ranks) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = instances_.find(members);
  if (found == instances_.end() && instances_.size() >= kMost) return nullptr;
  // Counted even where there is no place left, so that the numbers stay those of the other ranks.
  return AddLocked({members, instances_[members]++}, name, ranks);
}

std::shared_ptr<Whereabouts> Board::AddFinalize(const std::vector<int>& ranks) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return AddLocked({0, kFinalize}, "", ranks);
}

std::shared_ptr<Whereabouts> Board::AddLocked(const CommunicatorKey& key, const std::string& name,
                                              const std::vector<int>& ranks) {
  std::erase_if(places_, [](const std::weak_ptr<Whereabouts>& place) { return place.expired(); });
  if (places_.size() >= kMost) return nullptr;
  // Communicators of the same ranks share the list.
  Whereabouts::Ranks shared;
  for (const std::weak_ptr<Whereabouts>& place : places_) {
    const std::shared_ptr<Whereabouts> other = place.lock();
    if (other != nullptr && *other->ranks() == ranks) shared = other->ranks();
    if (shared != nullptr) break;
  }
  if (shared == nullptr) shared = std::make_shared<const std::vector<int>>(ranks);
  auto made = std::make_shared<Whereabouts>(key, name, std::move(shared));
  places_.push_back(made);
  return made;
}

std::vector<Board::Seen> Board::Look(int64_t now, double seconds_per_tick) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Seen> seen;
  for (const std::weak_ptr<Whereabouts>& weak : places_) {
    const std::shared_ptr<const Whereabouts> where = weak.lock();
    Place place;
    if (where != nullptr && where->Look(now, seconds_per_tick, &place)) {
      seen.push_back({std::move(place), where->ranks()});
    }
  }
  for (const Wait& wait : waits_) {
    Place place{.communicator = wait.where->key(),
                .name = wait.where->name(),
                .size = static_cast<int32_t>(wait.where->ranks()->size()),
                .ordinal = wait.ordinal,
                .stage = Stage::kWaiting,
                .signature = wait.signature,
                .seconds = SecondsSince(wait.since, now, seconds_per_tick)};
    seen.push_back({std::move(place), wait.where->ranks()});
  }
  return seen;
}

Waiting::Waiting(Board* board, std::shared_ptr<const Whereabouts> where, uint64_t ordinal,
                 const Signature& signature, int64_t now)
    : board_(board) {
  const std::lock_guard<std::mutex> lock(board_->mutex_);
  wait_ = board_->waits_.insert(board_->waits_.end(), {std::move(where), ordinal, signature, now});
}

Waiting::~Waiting() {
  const std::lock_guard<std::mutex> lock(board_->mutex_);
  board_->waits_.erase(wait_);
}

}  // namespace terse::intercept
