// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/forensics.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <utility>

#include "runtime/intercept/hang/messages.h"
#include "runtime/intercept/hang/watch.h"
#include "runtime/intercept/library.h"

namespace terse::intercept {
namespace {

// Never destroyed: calls may come while the process ends.
struct Forensics {
  std::unique_ptr<Watch> watch;  // null where it could not be made
  std::string trouble;
  std::shared_ptr<Whereabouts> finalize;
};
Forensics* forensics = nullptr;  // set in MPI_Init

// Past stdio, whose lock a thread of the program may hold for as long as it likes.
void SayOnStderr(const std::string& text) {
  const std::string line = text + "\n";
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nobody is there to be told
}

double HangAfter() {
  const char* const text = std::getenv("TERSE_HANG_AFTER_S");
  double after = 0;
  if (!ParseHangAfter(text, &after)) {
    std::fprintf(stderr,
                 "terse: TERSE_HANG_AFTER_S: '%s' is no number of seconds from 0 to %.0f; %.0f are used\n",
                 text, kMostHangAfter, kDefaultHangAfter);
  }
  return after;
}

extern "C" {
static void InForkedChild() {
  watching.store(false, std::memory_order_relaxed);
  if (forensics != nullptr && forensics->watch != nullptr) forensics->watch->ForgetInChild();
}
}  // extern "C"

// Every rank's card; empty when MPI failed.
std::vector<Card> GatherCards(const Card& own, MPI_Comm world, int size) {
  const Pmpi& pmpi = GetPmpi();
  const std::string bytes = Encode(own);
  std::string all(Card::kBytes * static_cast<size_t>(size), '\0');
  const int count = static_cast<int>(Card::kBytes);
  if (pmpi.Allgather(bytes.data(), count, pmpi.char_type, all.data(), count, pmpi.char_type, world) !=
      MPI_SUCCESS) {
    return {};
  }
  std::vector<Card> cards;
  for (size_t i = 0; i < all.size(); i += Card::kBytes) {
    std::optional<Card> card = DecodeCard(std::string_view(all).substr(i, Card::kBytes));
    if (!card.has_value()) return {};
    cards.push_back(*std::move(card));
  }
  return cards;
}

}  // namespace

void StartForensics(MPI_Comm world, int rank, int size) {
  forensics = new Forensics;
  const double after = HangAfter();
  Card card;
  if (after > 0 && size > 1) {
    Watch::Options options{.rank = rank, .after = after, .vocabulary = GetVocabulary(), .say = SayOnStderr};
    forensics->watch = Watch::Open(std::move(options), &card, &forensics->trouble);
  }
  // All ranks, whatever is set or went wrong on one of them.
  std::vector<Card> cards = GatherCards(card, world, size);
  if (forensics->watch == nullptr) return;
  if (cards.empty()) {
    forensics->trouble = "the ranks could not tell each other their addresses";
    forensics->watch.reset();
    return;
  }
  forensics->finalize = [&] {
    std::vector<int> ranks(static_cast<size_t>(size));
    std::iota(ranks.begin(), ranks.end(), 0);
    return forensics->watch->board().AddFinalize(ranks);
  }();
  pthread_atfork(nullptr, nullptr, InForkedChild);
  if (!forensics->watch->Start(std::move(cards), &forensics->trouble)) {
    forensics->watch.reset();
    return;
  }
  watching.store(true, std::memory_order_release);
}

void EnterFinalize() {
  if (watching.load(std::memory_order_relaxed)) forensics->finalize->Enter({}, Now());
}

void StopForensics(MPI_Comm world) {
  // Whoever leaves MPI_Finalize first must not look as if its process had died.
  GetPmpi().Barrier(world);
  if (watching.load(std::memory_order_relaxed)) forensics->finalize->Leave(true, Now());
  StopForensicsAlone();
}

void StopForensicsAlone() {
  if (!watching.exchange(false, std::memory_order_relaxed)) return;
  forensics->watch->Stop();
}

std::shared_ptr<Whereabouts> Watched(const CommunicatorFacts& facts, const std::vector<int>& ranks) {
  // The other group of an intercommunicator is not known here.
  if (!watching.load(std::memory_order_acquire) || facts.inter) return nullptr;
  return forensics->watch->board().Add(facts.members, facts.name, ranks);
}

Board* WatchedBoard() {
  return watching.load(std::memory_order_acquire) ? &forensics->watch->board() : nullptr;
}

std::vector<HangEvent> HangEvents(int64_t* count) {
  *count = 0;
  if (forensics == nullptr || forensics->watch == nullptr) return {};
  return forensics->watch->Events(count);
}

std::string ForensicsTrouble() { return forensics != nullptr ? forensics->trouble : ""; }

}  // namespace terse::intercept
