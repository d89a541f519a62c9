// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/hang/messages.h"

#include <algorithm>
#include <cmath>

namespace terse::intercept {
namespace {

constexpr std::string_view kCardMark = "TERSEHC1";
constexpr std::string_view kQuestionMark = "TERSEHQ1";
constexpr std::string_view kAnswerMark = "TERSEHA1";
constexpr size_t kLengthBytes = 4;
constexpr uint64_t kLongestWait = uint64_t{1} << 50;  // milliseconds

class Writer {
 public:
  template <typename Integer>
  void Put(Integer value) {
    for (size_t i = 0; i < sizeof(value); ++i)
      bytes_ += static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
  }
  void Raw(std::string_view text) { bytes_ += text; }
  void Raw(const std::array<uint8_t, 16>& bytes) { bytes_.append(bytes.begin(), bytes.end()); }
  void Text(std::string_view text, size_t longest) {
    text = text.substr(0, longest);
    Put(static_cast<uint8_t>(text.size()));
    bytes_ += text;
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Once something was wrong it stays so, and gives zeros.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  bool good() const { return good_; }
  bool done() const { return good_ && bytes_.empty(); }
  void Require(bool condition) { good_ = good_ && condition; }

  template <typename Integer>
  Integer Get() {
    const std::string_view part = Raw(sizeof(Integer));
    uint64_t value = 0;
    for (size_t i = 0; i < part.size(); ++i)
      value |= static_cast<uint64_t>(static_cast<uint8_t>(part[i])) << (8 * i);
    return static_cast<Integer>(value);
  }
  std::string_view Raw(size_t size) {
    Require(size <= bytes_.size());
    if (!good_) return {};
    const std::string_view part = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return part;
  }
  std::array<uint8_t, 16> Bytes16() {
    std::array<uint8_t, 16> bytes{};
    const std::string_view part = Raw(bytes.size());
    std::copy(part.begin(), part.end(), bytes.begin());
    return bytes;
  }
  // What a terminal might obey is left out.
  std::string Text(size_t longest) {
    const size_t size = Get<uint8_t>();
    Require(size <= longest);
    std::string text(Raw(size));
    for (char& c : text) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    }
    return text;
  }

 private:
  std::string_view bytes_;
  bool good_ = true;
};

void Put(Writer* writer, const Place& place) {
  writer->Put(place.communicator.members);
  writer->Put(place.communicator.instance);
  writer->Text(place.name, Answer::kLongestName);
  writer->Put(place.size);
  writer->Put(place.ordinal);
  writer->Put(static_cast<uint8_t>(place.stage));
  writer->Put(place.signature.count);
  writer->Put(place.signature.type);
  writer->Put(place.signature.op);
  writer->Put(static_cast<uint8_t>(place.signature.form));
  writer->Put(std::min(static_cast<uint64_t>(std::llround(place.seconds * 1e3)), kLongestWait));
}

Place GetPlace(Reader* reader) {
  Place place;
  place.communicator.members = reader->Get<uint64_t>();
  place.communicator.instance = reader->Get<uint32_t>();
  place.name = reader->Text(Answer::kLongestName);
  place.size = reader->Get<int32_t>();
  place.ordinal = reader->Get<uint64_t>();
  const uint8_t stage = reader->Get<uint8_t>();
  reader->Require(stage <= static_cast<uint8_t>(Stage::kWaiting));
  place.stage = static_cast<Stage>(stage);
  place.signature.count = reader->Get<int64_t>();
  place.signature.type = reader->Get<int16_t>();
  place.signature.op = reader->Get<int16_t>();
  const uint8_t form = reader->Get<uint8_t>();
  reader->Require(form <= static_cast<uint8_t>(Form::kPersistent));
  place.signature.form = static_cast<Form>(form);
  const uint64_t milliseconds = reader->Get<uint64_t>();
  reader->Require(milliseconds <= kLongestWait);
  place.seconds = static_cast<double>(milliseconds) / 1e3;
  return place;
}

void Put(Writer* writer, const std::optional<Place>& place) {
  writer->Put(static_cast<uint8_t>(place.has_value() ? 1 : 0));
  if (place.has_value()) Put(writer, *place);
}

std::optional<Place> GetOptionalPlace(Reader* reader) {
  const uint8_t there = reader->Get<uint8_t>();
  reader->Require(there <= 1);
  return there == 1 ? std::optional<Place>(GetPlace(reader)) : std::nullopt;
}

// In a time that does not tell how many bytes were right.
bool SameBytes(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

std::string_view View(const Token& token) {
  return {reinterpret_cast<const char*>(token.data()), token.size()};
}

}  // namespace

std::string Encode(const Card& card) {
  Writer writer;
  writer.Raw(kCardMark);
  writer.Raw(card.question);
  writer.Raw(card.answer);
  writer.Put(card.host);
  writer.Put(card.pid);
  writer.Put(card.loopback_port);
  writer.Put(card.port);
  writer.Text(card.host_name, Card::kLongestName);
  const size_t count = std::min(card.addresses.size(), Card::kMostAddresses);
  writer.Put(static_cast<uint8_t>(count));
  for (size_t i = 0; i < count; ++i) {
    writer.Put(static_cast<uint8_t>(card.addresses[i].v6 ? 1 : 0));
    writer.Raw(card.addresses[i].bytes);
  }
  std::string bytes = writer.Take();
  bytes.resize(Card::kBytes, '\0');
  return bytes;
}

std::optional<Card> DecodeCard(std::string_view bytes) {
  Reader reader(bytes);
  reader.Require(bytes.size() == Card::kBytes && reader.Raw(kCardMark.size()) == kCardMark);
  Card card;
  card.question = reader.Bytes16();
  card.answer = reader.Bytes16();
  card.host = reader.Get<uint64_t>();
  card.pid = reader.Get<int32_t>();
  card.loopback_port = reader.Get<uint16_t>();
  card.port = reader.Get<uint16_t>();
  card.host_name = reader.Text(Card::kLongestName);
  const size_t count = reader.Get<uint8_t>();
  reader.Require(count <= Card::kMostAddresses);
  for (size_t i = 0; i < count && reader.good(); ++i) {
    Address address;
    const uint8_t v6 = reader.Get<uint8_t>();
    reader.Require(v6 <= 1);
    address.v6 = v6 == 1;
    address.bytes = reader.Bytes16();
    card.addresses.push_back(address);
  }
  if (!reader.good()) return std::nullopt;
  return card;
}

std::string Encode(const Question& question) {
  Writer writer;
  writer.Raw(kQuestionMark);
  writer.Raw(question.token);
  writer.Put(question.communicator.members);
  writer.Put(question.communicator.instance);
  return writer.Take();
}

bool MayBeQuestion(std::string_view bytes, const Token& token) {
  const std::string_view mark = bytes.substr(0, kQuestionMark.size());
  if (mark != kQuestionMark.substr(0, mark.size()) || bytes.size() > Question::kBytes) return false;
  if (bytes.size() < kQuestionMark.size() + token.size()) return true;
  return SameBytes(bytes.substr(kQuestionMark.size(), token.size()), View(token));
}

std::optional<Question> DecodeQuestion(std::string_view bytes, const Token& token) {
  if (bytes.size() != Question::kBytes || !MayBeQuestion(bytes, token)) return std::nullopt;
  Reader reader(bytes.substr(kQuestionMark.size()));
  Question question;
  question.token = reader.Bytes16();
  question.communicator.members = reader.Get<uint64_t>();
  question.communicator.instance = reader.Get<uint32_t>();
  return question;
}

std::string Encode(const Answer& answer, const Token& token) {
  Writer writer;
  writer.Raw(kAnswerMark);
  writer.Raw(token);
  Put(&writer, answer.here);
  Put(&writer, answer.latest);
  const size_t count = std::min(answer.waits.size(), Answer::kMostWaits);
  writer.Put(static_cast<uint8_t>(count));
  for (size_t i = 0; i < count; ++i) Put(&writer, answer.waits[i]);
  const std::string body = writer.Take();
  Writer whole;
  whole.Put(static_cast<uint32_t>(body.size()));
  whole.Raw(body);
  return whole.Take();
}

bool AnswerBytes(std::string_view bytes, size_t* total) {
  *total = 0;
  if (bytes.size() < kLengthBytes) return true;
  Reader reader(bytes);
  const size_t body = reader.Get<uint32_t>();
  if (body > Answer::kMostBytes - kLengthBytes) return false;
  *total = kLengthBytes + body;
  return true;
}

std::optional<Answer> DecodeAnswer(std::string_view bytes, const Token& token) {
  size_t total = 0;
  if (!AnswerBytes(bytes, &total) || total == 0 || total != bytes.size()) return std::nullopt;
  Reader reader(bytes.substr(kLengthBytes));
  reader.Require(reader.Raw(kAnswerMark.size()) == kAnswerMark);
  reader.Require(SameBytes(reader.Raw(token.size()), View(token)));
  Answer answer;
  answer.here = GetOptionalPlace(&reader);
  answer.latest = GetOptionalPlace(&reader);
  const size_t count = reader.Get<uint8_t>();
  reader.Require(count <= Answer::kMostWaits);
  for (size_t i = 0; i < count && reader.good(); ++i) answer.waits.push_back(GetPlace(&reader));
  if (!reader.done()) return std::nullopt;
  return answer;
}

Answer MakeAnswer(const std::vector<Board::Seen>& seen, const CommunicatorKey& communicator) {
  Answer answer;
  for (const auto& [place, ranks] : seen) {
    if (place.waits()) answer.waits.push_back(place);
    if (place.stage == Stage::kWaiting) continue;
    if (place.communicator == communicator) {
      answer.here = place;
    } else if (!answer.latest.has_value() || place.seconds < answer.latest->seconds) {
      answer.latest = place;
    }
  }
  if (answer.here.has_value() && answer.latest.has_value() &&
      answer.here->seconds <= answer.latest->seconds) {
    answer.latest.reset();
  }
  std::sort(answer.waits.begin(), answer.waits.end(),
            [](const Place& a, const Place& b) { return a.seconds > b.seconds; });
  if (answer.waits.size() > Answer::kMostWaits) answer.waits.resize(Answer::kMostWaits);
  return answer;
}

}  // namespace terse::intercept
