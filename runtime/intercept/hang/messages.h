// SPDX-License-Identifier: Apache-2.0
//
// What ranks tell each other about their places (whereabouts.h): a card each, given to all ranks in MPI_Init,
// then questions and answers over TCP. Little-endian, of bounded size; whatever is decoded comes from outside
// and is checked. Pure functions.
#ifndef TERSE_RUNTIME_INTERCEPT_HANG_MESSAGES_H_
#define TERSE_RUNTIME_INTERCEPT_HANG_MESSAGES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/intercept/hang/whereabouts.h"

namespace terse::intercept {

using Token = std::array<uint8_t, 16>;

struct Address {
  bool v6 = false;
  std::array<uint8_t, 16> bytes{};  // in network order; of IPv4 the first 4
  friend bool operator==(const Address&, const Address&) = default;
};

// How a rank is asked.
struct Card {
  static constexpr size_t kBytes = 272;
  static constexpr size_t kMostAddresses = 8;
  static constexpr size_t kLongestName = 63;

  Token question{};   // what a question to it must carry
  Token answer{};     // what its answers carry
  uint64_t host = 0;  // equal where ranks reach each other by the loopback address
  std::string host_name;
  int32_t pid = 0;
  uint16_t loopback_port = 0;  // 0: it cannot be asked
  uint16_t port = 0;           // at the addresses
  std::vector<Address> addresses;
};
std::string Encode(const Card& card);  // kBytes
std::optional<Card> DecodeCard(std::string_view bytes);

// About one communicator.
struct Question {
  static constexpr size_t kBytes = 36;

  Token token{};
  CommunicatorKey communicator;
};
std::string Encode(const Question& question);  // kBytes
// Of a question's first bytes: whether it may still become one.
bool MayBeQuestion(std::string_view bytes, const Token& token);
std::optional<Question> DecodeQuestion(std::string_view bytes, const Token& token);

struct Answer {
  static constexpr size_t kMostWaits = 8;
  static constexpr size_t kMostBytes = 2048;
  static constexpr size_t kLongestName = 100;

  std::optional<Place> here;    // in the communicator that was asked about
  std::optional<Place> latest;  // where its last call of all was, if not there
  std::vector<Place> waits;     // anywhere, longest first
};
// Its length (4 bytes) in front.
std::string Encode(const Answer& answer, const Token& token);
// How long an answer is of which these are the first bytes: 0 while that is unknown. False for none.
bool AnswerBytes(std::string_view bytes, size_t* total);
std::optional<Answer> DecodeAnswer(std::string_view bytes, const Token& token);

// To a question about `communicator`.
Answer MakeAnswer(const std::vector<Board::Seen>& seen, const CommunicatorKey& communicator);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_HANG_MESSAGES_H_
