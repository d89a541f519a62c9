// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/hang/explain.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <utility>

namespace terse::intercept {
namespace {

// A message names so many ranks one by one, and counts the rest.
constexpr size_t kMostNamed = 8;

std::string Seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof(text), seconds < 9.95 ? "%.1f s" : "%.0f s", seconds);
  return text;
}

std::string Named(const RankName& name) {
  return "rank " + std::to_string(name.rank) + " (" + name.host + ", pid " + std::to_string(name.pid) + ")";
}

// "rank 3", "ranks 0-2, 5"; the ranks are in ascending order.
std::string Numbers(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size();) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (i > 0) text += ", ";
    text += std::to_string(ranks[i]);
    if (last > i) text += "-" + std::to_string(ranks[last]);
    i = last + 1;
  }
  return text;
}

std::string Communicator(const Place& place) {
  if (!place.name.empty()) return place.name;
  return "the unnamed communicator of " + std::to_string(place.size) + " ranks (number " +
         std::to_string(place.communicator.instance + 1) + " of them)";
}

// Whether two ranks' calls can be the same. Of a derived type nothing is known but that it is one.
bool SameCall(const Signature& a, const Signature& b) {
  if (a.op != b.op || a.form != b.form) return false;
  if (a.type == kNotPredefined || b.type == kNotPredefined) return true;
  return a.type == b.type && a.count == b.count;
}

bool IsFinalize(const Place& place) { return place.communicator.instance == kFinalize; }

// What a rank that has not come does instead, where it waits elsewhere.
std::string Elsewhere(const Place& there, const RankName& self, const std::vector<Place>& own,
                      const Vocabulary& vocabulary) {
  std::string text = "it has waited " + Seconds(there.seconds) + " in " + Describe(there);
  if (IsFinalize(there)) return text;
  text += ", " + Describe(there.signature, vocabulary);
  for (const Place& place : own) {
    if (place.communicator == there.communicator && place.stage != Stage::kWaiting &&
        place.ordinal < there.ordinal) {
      return text + ", to which rank " + std::to_string(self.rank) +
             " has not come: they wait for each other";
    }
  }
  return text;
}

std::string LastCall(const Place& place, const Vocabulary& vocabulary) {
  const std::string what = Describe(place.signature, vocabulary);
  if (place.stage == Stage::kFailed) {
    const std::string before = place.ordinal > 0 ? Describe(place) : "none";
    return before + ", after which " + what + " failed " + Seconds(place.seconds) + " ago";
  }
  std::string when = ", in which it has been for " + Seconds(place.seconds);
  if (place.stage == Stage::kLeft) {
    const char* const began = place.signature.form == Form::kBlocking ? ", left " : ", started ";
    when = began + Seconds(place.seconds) + " ago";
  }
  return Describe(place) + ", " + what + when;
}

std::string NotCome(const Answer& answer, const Place& wait, const RankName& self,
                    const std::vector<Place>& own, const Vocabulary& vocabulary) {
  std::string text;
  if (answer.here.has_value()) {
    text = "its last call there is " + LastCall(*answer.here, vocabulary);
  } else if (!IsFinalize(wait)) {
    text = "it has made no call there";
  }
  for (const Place& there : answer.waits) {
    if (there.communicator == wait.communicator && there.stage == Stage::kInside) continue;  // said already
    if (!text.empty()) text += "; ";
    return text + Elsewhere(there, self, own, vocabulary);
  }
  if (answer.latest.has_value()) {
    if (!text.empty()) text += "; ";
    text += "its last call of all is " + LastCall(*answer.latest, vocabulary);
  }
  if (answer.waits.empty()) text += std::string(text.empty() ? "" : "; ") + "it is in no all-reduce now";
  return text;
}

// Ranks of which the same is to be said are said it of together.
class Groups {
 public:
  void Add(const RankName& name, const std::string& text) {
    if (text_of_.size() >= kMostNamed && !text_of_.contains(text)) {
      others_.push_back(name.rank);
      return;
    }
    const auto [found, fresh] = text_of_.try_emplace(text, order_.size());
    if (fresh) order_.push_back({text, {}});
    order_[found->second].second.push_back(name);
  }
  bool empty() const { return order_.empty(); }
  std::string Text() const {
    std::string text;
    for (const auto& [what, names] : order_) {
      if (!text.empty()) text += "; ";
      if (names.size() == 1) {
        text += Named(names.front());
      } else {
        std::vector<int> ranks;
        for (const RankName& name : names) ranks.push_back(name.rank);
        text += Numbers(ranks) + ", each";
      }
      if (!what.empty()) text += ": " + what;
    }
    if (!others_.empty()) text += "; and " + Numbers(others_);
    return text;
  }

 private:
  std::map<std::string, size_t> text_of_;
  std::vector<std::pair<std::string, std::vector<RankName>>> order_;
  std::vector<int> others_;
};

}  // namespace

std::string Describe(const Signature& signature, const Vocabulary& vocabulary) {
  const char* function = "MPI_Allreduce";
  if (signature.form == Form::kNonblocking) function = "MPI_Iallreduce";
  if (signature.form == Form::kPersistent) function = "a persistent all-reduce";
  const auto type = static_cast<size_t>(signature.type);
  const auto op = static_cast<size_t>(signature.op);
  const std::string type_name = signature.type >= 0 && type < vocabulary.types.size()
                                    ? vocabulary.types[type].name
                                    : "of a type of its own";
  const std::string op_name =
      signature.op >= 0 && op < vocabulary.ops.size() ? vocabulary.ops[op] : "an operation of its own";
  return std::string(function) + " of " + std::to_string(signature.count) + " " + type_name + " (" + op_name +
         ")";
}

std::string Describe(const Place& place) {
  if (IsFinalize(place)) return "MPI_Finalize";
  return (place.stage == Stage::kWaiting ? "MPI_Wait for call " : "call ") + std::to_string(place.ordinal) +
         " of " + Communicator(place);
}

bool WaitsAlike(const Place& place, const Answer& answer, double* seconds) {
  for (const Place& wait : answer.waits) {
    if (wait.communicator == place.communicator && wait.ordinal == place.ordinal) {
      *seconds = wait.seconds;
      return true;
    }
  }
  return false;
}

std::string Explain(const RankName& self, const Place& wait, const std::vector<Place>& own,
                    const std::vector<Heard>& heard, int unasked, const Vocabulary& vocabulary) {
  Groups missing;
  Groups other;
  Groups past;
  Groups unknown;
  std::vector<int> alike;
  std::pair<double, int> last{wait.seconds, self.rank};  // who came last, so many seconds ago
  std::vector<int> started;
  for (const Heard& one : heard) {
    switch (one.reply.reached) {
      case Reached::kRefused:
        unknown.Add(one.name, "does not answer, its connection is refused (its process is gone)");
        continue;
      case Reached::kSilent:
        unknown.Add(one.name, "does not answer (its process may be gone or stopped)");
        continue;
      case Reached::kUnable:
        unknown.Add(one.name, "cannot be asked (its hang forensics are off)");
        continue;
      case Reached::kAnswered:
        break;
    }
    const Answer& answer = one.reply.answer;
    const Place* const here = answer.here.has_value() ? &*answer.here : nullptr;
    double seconds = 0;
    if (here == nullptr || here->ordinal < wait.ordinal) {
      missing.Add(one.name, NotCome(answer, wait, self, own, vocabulary));
    } else if (here->ordinal == wait.ordinal && !SameCall(here->signature, wait.signature)) {
      other.Add(one.name, LastCall(*here, vocabulary));
    } else if (WaitsAlike(wait, answer, &seconds)) {
      alike.push_back(one.name.rank);
      last = std::min(last, {seconds, one.name.rank});
    } else if (wait.signature.form == Form::kBlocking) {
      past.Add(one.name, "its last call is " + LastCall(*here, vocabulary));
    } else {
      started.push_back(one.name.rank);
    }
  }
  std::string text = Named(self) + " has waited " + Seconds(wait.seconds) + " in " + Describe(wait);
  if (!IsFinalize(wait)) text += ": " + Describe(wait.signature, vocabulary);
  text += ".";
  if (!missing.empty()) text += " Not come: " + missing.Text() + ".";
  if (!other.empty()) text += " Come with another call: " + other.Text() + ".";
  if (!past.empty()) text += " Gone past it: " + past.Text() + ".";
  if (!unknown.empty()) text += " Not heard of: " + unknown.Text() + ".";
  if (unasked > 0) text += " Not asked: " + std::to_string(unasked) + " ranks.";
  if (!alike.empty()) text += " Waiting there too: " + Numbers(alike) + ".";
  if (!started.empty()) text += " Has started it: " + Numbers(started) + ".";
  if (missing.empty() && other.empty() && past.empty() && unknown.empty() && unasked == 0) {
    text += " All ranks have come with the same call, the last one, rank " + std::to_string(last.second) +
            ", " + Seconds(last.first) +
            " ago: MPI or the network is slow or stuck, or it was made in "
            "different communicators of the same ranks that were first used in different orders.";
  }
  return text;
}

}  // namespace terse::intercept
