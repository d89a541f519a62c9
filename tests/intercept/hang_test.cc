// SPDX-License-Identifier: Apache-2.0
//
// Hang forensics without MPI: places, messages, the sockets between ranks, and whole watches of several ranks
// in one process.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/intercept/hang/channel.h"
#include "runtime/intercept/hang/explain.h"
#include "runtime/intercept/hang/messages.h"
#include "runtime/intercept/hang/watch.h"
#include "runtime/intercept/hang/whereabouts.h"
#include "tests/intercept/hang_places.h"

namespace terse::intercept {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

// For what must come; a machine may be slow, and a minute is for ever.
bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(Whereabouts, SayWhatTheLastCallIs) {
  Board board;
  const std::shared_ptr<Whereabouts> where = board.Add(7, "world", {0, 1, 2});
  EXPECT_THAT(board.Look(0, 1), IsEmpty());
  where->Enter(Floats(10), 100);
  where->Leave(true, 101);
  where->Enter(Floats(20), 110);
  std::vector<Board::Seen> seen = board.Look(112, 0.5);
  ASSERT_THAT(seen, SizeIs(1));
  EXPECT_EQ(seen[0].place.stage, Stage::kInside);
  EXPECT_EQ(seen[0].place.ordinal, 2u);
  EXPECT_EQ(seen[0].place.signature.count, 20);
  EXPECT_EQ(seen[0].place.name, "world");
  EXPECT_EQ(seen[0].place.size, 3);
  EXPECT_DOUBLE_EQ(seen[0].place.seconds, 1.0);
  EXPECT_THAT(*seen[0].ranks, ElementsAre(0, 1, 2));
  // A call that failed has no number: the next one is the second again.
  where->Leave(false, 113);
  seen = board.Look(113, 1);
  EXPECT_EQ(seen[0].place.stage, Stage::kFailed);
  EXPECT_EQ(seen[0].place.ordinal, 1u);
  where->Enter({.count = 3, .type = kNotPredefined, .op = kNotPredefined, .form = Form::kNonblocking}, 120);
  where->Leave(true, 121);
  seen = board.Look(121, 1);
  EXPECT_EQ(seen[0].place.stage, Stage::kLeft);
  EXPECT_EQ(seen[0].place.ordinal, 2u);
  EXPECT_EQ(seen[0].place.signature.type, kNotPredefined);
  EXPECT_EQ(seen[0].place.signature.op, kNotPredefined);
  EXPECT_EQ(seen[0].place.signature.form, Form::kNonblocking);
}

TEST(Whereabouts, AreNumberedByMembersAndLeaveTheBoard) {
  Board board;
  std::shared_ptr<Whereabouts> first = board.Add(7, "", {0, 1});
  const std::shared_ptr<Whereabouts> second = board.Add(7, "", {0, 1});
  const std::shared_ptr<Whereabouts> other = board.Add(8, "", {0, 2});
  EXPECT_EQ(first->key(), (CommunicatorKey{7, 0}));
  EXPECT_EQ(second->key(), (CommunicatorKey{7, 1}));
  EXPECT_EQ(other->key(), (CommunicatorKey{8, 0}));
  EXPECT_EQ(first->ranks(), second->ranks());
  first->Enter(Floats(1), 0);
  second->Enter(Floats(1), 0);
  EXPECT_THAT(board.Look(0, 1), SizeIs(2));
  first.reset();
  EXPECT_THAT(board.Look(0, 1), SizeIs(1));
  EXPECT_EQ(board.Add(7, "", {0, 1})->key(), (CommunicatorKey{7, 2}));
  {
    const Waiting waiting(&board, second, 1, Floats(1, Form::kNonblocking), 0);
    ASSERT_THAT(board.Look(3, 1), SizeIs(2));
    EXPECT_EQ(board.Look(3, 1)[1].place.stage, Stage::kWaiting);
    EXPECT_DOUBLE_EQ(board.Look(3, 1)[1].place.seconds, 3);
  }
  EXPECT_THAT(board.Look(3, 1), SizeIs(1));
}

// What is read belongs together, however fast calls come.
TEST(Whereabouts, AreReadWholeWhileCallsGoOn) {
  Board board;
  const std::shared_ptr<Whereabouts> where = board.Add(7, "", {0, 1});
  std::atomic<bool> stop{false};
  std::thread calls([&] {
    for (int64_t i = 1; !stop.load(); ++i) {
      where->Enter({.count = i, .type = static_cast<int16_t>(i % 100)}, i);
      where->Leave(true, i);
    }
  });
  int read = 0;
  EXPECT_TRUE(Eventually([&] {
    for (int i = 0; i < 1000; ++i) {
      Place place;
      if (!where->Look(0, -1, &place)) continue;
      ++read;
      EXPECT_EQ(static_cast<uint64_t>(place.signature.count), place.ordinal);
      EXPECT_EQ(place.signature.type, place.signature.count % 100);
      EXPECT_DOUBLE_EQ(place.seconds, static_cast<double>(place.ordinal));
    }
    return read > 10000;
  }));
  stop = true;
  calls.join();
}

Answer Everything() {
  Answer answer;
  answer.here = At(kWorld, 12, Stage::kLeft, Floats(5), 61.5);
  answer.latest = At(kHalf, 3, Stage::kInside, {.count = 1, .type = kNotPredefined, .op = kNotPredefined}, 2);
  for (uint64_t i = 0; i < Answer::kMostWaits; ++i) {
    answer.waits.push_back(At(kHalf, i, Stage::kWaiting, Floats(1, Form::kPersistent), 1e6));
    answer.waits.back().name = std::string(Answer::kLongestName, 'n');
  }
  return answer;
}

Token Of(uint8_t value) {
  Token token;
  token.fill(value);
  return token;
}

TEST(Messages, ComeBackAsTheyWere) {
  Card card = MakeCard();
  card.port = 4242;
  card.loopback_port = 77;
  card.addresses = {{.v6 = false, .bytes = {10, 0, 0, 1}}, {.v6 = true, .bytes = {1, 2, 3}}};
  const std::optional<Card> same = DecodeCard(Encode(card));
  ASSERT_TRUE(same.has_value());
  EXPECT_EQ(same->question, card.question);
  EXPECT_EQ(same->answer, card.answer);
  EXPECT_EQ(same->host, card.host);
  EXPECT_EQ(same->host_name, card.host_name);
  EXPECT_EQ(same->pid, getpid());
  EXPECT_EQ(same->port, 4242);
  EXPECT_EQ(same->loopback_port, 77);
  EXPECT_EQ(same->addresses, card.addresses);

  const std::optional<Question> question =
      DecodeQuestion(Encode(Question{.token = Of(3), .communicator = kHalf}), Of(3));
  ASSERT_TRUE(question.has_value());
  EXPECT_EQ(question->communicator, kHalf);

  const std::string bytes = Encode(Everything(), Of(4));
  EXPECT_LE(bytes.size(), Answer::kMostBytes);
  const std::optional<Answer> answer = DecodeAnswer(bytes, Of(4));
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->here->ordinal, 12u);
  EXPECT_EQ(answer->here->name, "world");
  EXPECT_DOUBLE_EQ(answer->here->seconds, 61.5);
  EXPECT_EQ(answer->latest->signature.type, kNotPredefined);
  ASSERT_THAT(answer->waits, SizeIs(Answer::kMostWaits));
  EXPECT_EQ(answer->waits[7].ordinal, 7u);
  EXPECT_EQ(answer->waits[7].signature.form, Form::kPersistent);
  EXPECT_EQ(answer->waits[7].name.size(), Answer::kLongestName);
}

TEST(Messages, HostileBytesAreNone) {
  const std::string question = Encode(Question{.token = Of(3), .communicator = kHalf});
  EXPECT_FALSE(DecodeQuestion(question, Of(4)).has_value());
  EXPECT_FALSE(MayBeQuestion(question, Of(4)));
  EXPECT_TRUE(MayBeQuestion(question.substr(0, 5), Of(4)));
  EXPECT_FALSE(MayBeQuestion("GET / HTTP/1.1", Of(4)));
  EXPECT_FALSE(MayBeQuestion(question + "x", Of(3)));
  const std::string answer = Encode(Everything(), Of(4));
  EXPECT_FALSE(DecodeAnswer(answer, Of(3)).has_value());
  size_t total = 0;
  EXPECT_FALSE(AnswerBytes(std::string(4, '\xff'), &total));
  const std::string card = Encode(MakeCard());
  for (size_t i = 0; i < answer.size(); ++i) {
    EXPECT_FALSE(DecodeAnswer(answer.substr(0, i), Of(4)).has_value()) << i;
    for (const int flip : {1, 0x80, 0xff}) {
      std::string changed = answer;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      const std::optional<Answer> read = DecodeAnswer(changed, Of(4));
      if (!read.has_value()) continue;
      EXPECT_LE(read->waits.size(), Answer::kMostWaits);
      EXPECT_TRUE(read->here.has_value());
      EXPECT_LE(read->here->stage, Stage::kWaiting);
      // What a terminal might obey does not come through.
      EXPECT_EQ(read->here->name.find('\x1b'), std::string::npos);
      EXPECT_THAT(Describe(read->here->signature, Words()), HasSubstr("of "));
    }
  }
  for (size_t i = 0; i < card.size(); ++i) {
    EXPECT_FALSE(DecodeCard(card.substr(0, i)).has_value());
    std::string changed = card;
    changed[i] = '\xff';
    const std::optional<Card> read = DecodeCard(changed);
    if (!read.has_value()) continue;
    EXPECT_LE(read->addresses.size(), Card::kMostAddresses);
  }
  Answer escape;
  escape.here = At(kWorld, 1, Stage::kLeft, Floats(1), 0);
  escape.here->name = "a\x1b[2Jb";
  EXPECT_EQ(DecodeAnswer(Encode(escape, Of(1)), Of(1))->here->name, "a?[2Jb");
}

// A rank that listens and answers that it has made `ordinal` calls of what it is asked about.
class Rank {
 public:
  explicit Rank(uint64_t ordinal, bool serves = true) : card_(MakeCard()) {
    std::string error;
    listener_ = Listener::Open(&card_, &error);
    EXPECT_NE(listener_, nullptr) << error;
    if (!serves) return;
    thread_ = std::thread([this, ordinal] {
      listener_->Serve(
          [ordinal](const CommunicatorKey& asked) {
            return Answer{.here = At(asked, ordinal, Stage::kLeft, Floats(1), 1), .latest = {}, .waits = {}};
          },
          stop_);
    });
  }
  ~Rank() {
    stop_.Stop();
    if (thread_.joinable()) thread_.join();
  }
  const Card& card() const { return card_; }
  // Its process dies.
  void Die() {
    stop_.Stop();
    if (thread_.joinable()) thread_.join();
    listener_.reset();
  }

 private:
  Card card_;
  StopSignal stop_;
  std::unique_ptr<Listener> listener_;
  std::thread thread_;
};

std::vector<Reply> AskAll(const std::vector<const Card*>& cards, double patience = 60) {
  const StopSignal stop;
  return Ask(cards, cards[0]->host, kWorld, patience, stop);
}

// Sends `bytes` to a rank's loopback port; what comes back until it closes the connection.
std::string Send(const Card& card, const std::string& bytes) {
  const Descriptor client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(card.loopback_port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  std::string got;
  char buffer[4096];
  pollfd readable{client.get(), POLLIN, 0};
  while (poll(&readable, 1, 60'000) == 1) {
    const ssize_t count = recv(client.get(), buffer, sizeof(buffer), 0);
    if (count <= 0) return got;
    got.append(buffer, static_cast<size_t>(count));
  }
  return got + " and the connection stays open";
}

TEST(Channel, RanksAnswerWhoeverHasTheirToken) {
  Rank first(11);
  Rank second(12);
  std::vector<Reply> replies = AskAll({&first.card(), &second.card()});
  EXPECT_EQ(replies[0].reached, Reached::kAnswered);
  EXPECT_EQ(replies[0].answer.here->ordinal, 11u);
  EXPECT_EQ(replies[1].answer.here->ordinal, 12u);
  EXPECT_EQ(replies[1].answer.here->communicator, kWorld);
  const std::string question = Encode(Question{.token = first.card().question, .communicator = kWorld});
  EXPECT_THAT(Send(first.card(), question), Not(IsEmpty()));
  second.Die();
  replies = AskAll({&first.card(), &second.card()});
  EXPECT_EQ(replies[0].reached, Reached::kAnswered);
  EXPECT_EQ(replies[1].reached, Reached::kRefused);
}

TEST(Channel, OthersGetNoByte) {
  Rank rank(11);
  const std::string question = Encode(Question{.token = rank.card().question, .communicator = kWorld});
  std::string wrong = question;
  wrong[20] ^= 1;
  EXPECT_EQ(Send(rank.card(), wrong), "");
  EXPECT_EQ(Send(rank.card(), "GET / HTTP/1.1\r\n\r\n"), "");
  EXPECT_EQ(Send(rank.card(), std::string(64, '\0')), "");
  EXPECT_EQ(Send(rank.card(), question + "more"), "");
  EXPECT_EQ(Send(rank.card(), question.substr(0, 20)), "");  // it is not waited for the rest for ever
  EXPECT_EQ(AskAll({&rank.card()})[0].reached, Reached::kAnswered);
}

// More callers that say nothing than there are places: they are shown out, and a rank gets its answer.
TEST(Channel, SilentCallersDoNotKeepOthersOut) {
  Rank rank(11);
  std::vector<Descriptor> idle;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(rank.card().loopback_port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (size_t i = 0; i < Listener::kMostConnections + 20; ++i) {
    idle.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(idle.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  EXPECT_EQ(AskAll({&rank.card()})[0].reached, Reached::kAnswered);
}

TEST(Channel, SaysWhoDoesNotAnswer) {
  const Rank stopped(11, false);  // the kernel takes the connection, nobody the question
  const Rank other(12);
  Card none = other.card();
  none.loopback_port = 0;
  Card impostor = other.card();  // at another's port since that one died
  impostor.answer = Of(9);
  const std::vector<Reply> replies = AskAll({&stopped.card(), &other.card(), &none, &impostor}, 2);
  EXPECT_EQ(replies[0].reached, Reached::kSilent);
  EXPECT_EQ(replies[1].reached, Reached::kAnswered);
  EXPECT_EQ(replies[2].reached, Reached::kUnable);
  EXPECT_EQ(replies[3].reached, Reached::kRefused);
}

TEST(Channel, RanksOfOtherHostsAreTriedAtEachAddress) {
  const Rank rank(11);
  Card card = rank.card();
  card.addresses = {{.v6 = false, .bytes = {127, 0, 0, 2}}, {.v6 = false, .bytes = {127, 0, 0, 1}}};
  const StopSignal stop;
  EXPECT_EQ(Ask({&card}, card.host + 1, kWorld, 60, stop)[0].reached, Reached::kAnswered);
  card.port = 1;  // nobody listens there
  EXPECT_EQ(Ask({&card}, card.host + 1, kWorld, 60, stop)[0].reached, Reached::kRefused);
  card.addresses.clear();
  EXPECT_EQ(Ask({&card}, card.host + 1, kWorld, 60, stop)[0].reached, Reached::kSilent);
}

TEST(Channel, AskingStopsWhenItIsTold) {
  const Rank stopped(11, false);
  StopSignal stop;
  std::thread soon([&] { stop.Stop(); });
  EXPECT_EQ(Ask({&stopped.card()}, stopped.card().host, kWorld, 1e6, stop)[0].reached, Reached::kSilent);
  soon.join();
}

// The watches of a job of three ranks.
class Job {
 public:
  explicit Job(double after) {
    std::vector<Card> cards(3);
    std::string error;
    for (int rank = 0; rank < 3; ++rank) {
      Watch::Options options{
          .rank = rank, .after = after, .vocabulary = Words(), .say = [this, rank](auto text) {
            const std::lock_guard<std::mutex> lock(mutex_);
            said_[rank].push_back(text);
          }};
      watches_.push_back(Watch::Open(std::move(options), &cards[static_cast<size_t>(rank)], &error));
      EXPECT_NE(watches_.back(), nullptr) << error;
      world_.push_back(watches_.back()->board().Add(7, "world", {0, 1, 2}));
    }
    for (const std::unique_ptr<Watch>& watch : watches_) EXPECT_TRUE(watch->Start(cards, &error)) << error;
  }
  void Enter(size_t rank, const Signature& signature) { world_[rank]->Enter(signature, Now()); }
  void Leave(size_t rank) { world_[rank]->Leave(true, Now()); }
  void Call(const Signature& signature) {
    for (size_t rank = 0; rank < 3; ++rank) {
      Enter(rank, signature);
      Leave(rank);
    }
  }
  std::vector<std::string> Said(int rank) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return said_[rank];
  }
  Watch& watch(size_t rank) { return *watches_[rank]; }
  std::shared_ptr<Whereabouts> world(size_t rank) { return world_[rank]; }

 private:
  std::mutex mutex_;
  std::vector<std::string> said_[3];
  std::vector<std::unique_ptr<Watch>> watches_;
  std::vector<std::shared_ptr<Whereabouts>> world_;
};

TEST(Watch, TheLowestWaitingRankSpeaksAndSaysWhenItGoesOn) {
  Job job(0.5);
  job.Call(Floats(3));
  job.Enter(0, Floats(10));
  job.Enter(2, Floats(10));
  ASSERT_TRUE(Eventually([&] { return job.Said(0).size() >= 2; }));  // again after twice the time
  EXPECT_THAT(
      job.Said(0)[0],
      AllOf(StartsWith("terse: rank 0 ("), HasSubstr("in call 2 of world"), HasSubstr("Not come: rank 1 ("),
            HasSubstr("MPI_Allreduce of 3 MPI_FLOAT"), HasSubstr("Waiting there too: rank 2.")));
  int64_t count = 0;
  std::vector<HangEvent> events = job.watch(0).Events(&count);
  ASSERT_EQ(count, 1);
  EXPECT_FALSE(events[0].over);
  EXPECT_EQ(events[0].call, "call 2 of world");
  EXPECT_GE(events[0].seconds, 0.5);
  EXPECT_THAT(events[0].message, HasSubstr("Not come"));
  job.Enter(1, Floats(10));
  for (size_t rank = 0; rank < 3; ++rank) job.Leave(rank);
  EXPECT_TRUE(Eventually(
      [&] { return !job.Said(0).empty() && job.Said(0).back().find("goes on") != std::string::npos; }));
  EXPECT_THAT(job.Said(0).back(), HasSubstr("rank 0 goes on: call 2 of world is over"));
  events = job.watch(0).Events(&count);
  EXPECT_EQ(count, 1);
  EXPECT_TRUE(events[0].over);
  for (size_t rank = 0; rank < 3; ++rank) job.watch(rank).Stop();
  EXPECT_THAT(job.Said(1), IsEmpty());
  EXPECT_THAT(job.Said(2), IsEmpty());
}

TEST(Watch, SpeaksOfWaitsForCallsThatWereStarted) {
  Job job(0.2);
  const Signature call = Floats(10, Form::kNonblocking);
  job.Enter(2, call);
  job.Leave(2);
  {
    const Waiting waiting(&job.watch(2).board(), job.world(2), job.world(2)->ordinal(), call, Now());
    ASSERT_TRUE(Eventually([&] { return !job.Said(2).empty(); }));
  }
  EXPECT_THAT(job.Said(2)[0],
              AllOf(HasSubstr("in MPI_Wait for call 1 of world: MPI_Iallreduce of 10 MPI_FLOAT"),
                    HasSubstr("Not come: ranks 0-1, each: it has made no call there; it is in no "
                              "all-reduce now")));
}

TEST(Watch, ADeadRankIsNamed) {
  Job job(0.2);
  job.Call(Floats(3));
  job.watch(1).Stop();
  job.Enter(0, Floats(10));
  ASSERT_TRUE(Eventually([&] { return !job.Said(0).empty(); }));
  EXPECT_THAT(job.Said(0)[0], HasSubstr("Not heard of: rank 1 ("));
  EXPECT_THAT(job.Said(0)[0], HasSubstr("does not answer, its connection is refused (its process is gone)"));
  // What stops is silent about what still waits.
  job.watch(0).Stop();
  EXPECT_THAT(job.Said(0).back(), Not(HasSubstr("goes on")));
}

TEST(Watch, SaysNothingWhereNothingHangs) {
  Job job(60);
  for (int i = 1; i < 1000; ++i) job.Call(Floats(i));
  for (size_t rank = 0; rank < 3; ++rank) {
    job.watch(rank).Stop();
    job.watch(rank).Stop();
    int64_t count = -1;
    EXPECT_THAT(job.watch(rank).Events(&count), IsEmpty());
    EXPECT_EQ(count, 0);
    EXPECT_THAT(job.Said(static_cast<int>(rank)), IsEmpty());
  }
}

}  // namespace
}  // namespace terse::intercept
