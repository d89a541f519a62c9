// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/examination.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace terse::cli {
namespace {

using Json = nlohmann::ordered_json;

const char* NameOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kFine:
      return "fine";
    case Verdict::kNote:
      return "note";
    case Verdict::kWrong:
      break;
  }
  return "wrong";
}

// What is not fine, numbered, each with what to do.
std::string Remarks(const std::vector<Fact>& facts, Verdict verdict, const std::string& title) {
  std::string out;
  int number = 0;
  for (const Fact& fact : facts) {
    if (fact.verdict != verdict) continue;
    if (out.empty()) out = "\n" + title + "\n";
    out += "  " + std::to_string(++number) + ". " + fact.topic + ", " + fact.name + ": " + fact.value +
           "\n     -> " + fact.advice + "\n";
  }
  return out;
}

}  // namespace

std::string FormatExamination(const Examination& examination) {
  size_t width = 0;
  for (const Fact& fact : examination.facts()) width = std::max(width, fact.name.size());
  std::string out;
  std::string topic;
  for (const Fact& fact : examination.facts()) {
    if (fact.topic != topic) {
      out += (topic.empty() ? "" : "\n") + fact.topic + "\n";
      topic = fact.topic;
    }
    const char mark = fact.verdict == Verdict::kFine ? ' ' : fact.verdict == Verdict::kNote ? '*' : '!';
    out += std::string(1, mark) + " " + fact.name + std::string(width - fact.name.size() + 2, ' ') +
           fact.value + "\n";
  }
  out += Remarks(examination.facts(), Verdict::kNote, "Worth knowing (*):");
  const std::string wrong = Remarks(examination.facts(), Verdict::kWrong, "Wrong (!):");
  return out + (wrong.empty() ? "\nNothing is wrong.\n" : wrong);
}

std::string ExaminationJson(const Examination& examination) {
  Json facts = Json::array();
  int wrong = 0;
  for (const Fact& fact : examination.facts()) {
    if (fact.verdict == Verdict::kWrong) ++wrong;
    facts.push_back({{"topic", fact.topic},
                     {"name", fact.name},
                     {"value", fact.value},
                     {"verdict", NameOf(fact.verdict)},
                     {"advice", fact.advice}});
  }
  // Paths and names of files need be no UTF-8.
  return Json{{"wrong", wrong}, {"facts", std::move(facts)}}.dump(2, ' ', false,
                                                                  Json::error_handler_t::replace) +
         "\n";
}

}  // namespace terse::cli
