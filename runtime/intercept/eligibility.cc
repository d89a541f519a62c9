// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/eligibility.h"

#include <algorithm>
#include <string>

namespace terse::intercept {
namespace {

// A period that was seen less often than this may be a coincidence of the start.
constexpr int64_t kFewRepeats = 10;

std::string Exact(const Signature& signature, const CommunicatorRecord& record, const Vocabulary& vocabulary,
                  const Rules& rules) {
  using Kind = Vocabulary::TypeKind;
  if (record.facts.inter) return "an intercommunicator passes through";
  if (record.facts.size == 1) return "the rank is alone in its communicator";
  if (signature.form != Form::kBlocking && !record.facts.threads) {
    return std::string(signature.form == Form::kPersistent ? "persistent" : "non-blocking") +
           " calls stay exact without MPI_THREAD_MULTIPLE (terse run --progress-thread raises it)";
  }
  if (signature.type == kNotPredefined) return "a derived type stays exact";
  if (signature.op == kNotPredefined) return "an operation of the program's own stays exact";
  if (signature.op != vocabulary.sum)
    return vocabulary.ops[static_cast<size_t>(signature.op)] + " is no sum and stays exact";
  const Vocabulary::Type& type = vocabulary.types[static_cast<size_t>(signature.type)];
  if (type.kind == Kind::kHalf) {
    return type.name +
           ": half precision stays exact, for jobs scale its losses by a factor that no call tells";
  }
  if (type.kind == Kind::kOther) return type.name + " stays exact";
  // Compilers can make Fortran's REAL twice as wide, so the name alone does not tell.
  if (!rules.doubles && signature.type_size != sizeof(float)) {
    return type.name + ": double precision stays exact unless it is asked for (terse run --doubles)";
  }
  return "";
}

}  // namespace

Verdict Judge(const CommunicatorRecord& record, const Site& site, const Vocabulary& vocabulary,
              const Rules& rules) {
  const Signature& signature = site.signature;
  if (std::string reason = Exact(signature, record, vocabulary, rules); !reason.empty())
    return {false, reason};
  if (signature.count < rules.min_elements) {
    return {false, std::to_string(signature.count) + " elements, fewer than min_elements (" +
                       std::to_string(rules.min_elements) + ")"};
  }
  if (site.position < 0) {
    return {false, record.period > 0 ? "not periodic: outside the period of " +
                                           std::to_string(record.period) + " calls, or before it was learned"
                                     : "not periodic: no period was found in this communicator's calls"};
  }
  return {true, "position " + std::to_string(site.position) + " of a period of " +
                    std::to_string(record.period) + " calls"};
}

bool MayCompress(const Signature& signature, const CommunicatorFacts& facts, const Vocabulary& vocabulary,
                 const Rules& rules) {
  const bool form = signature.form == Form::kBlocking || facts.threads;
  return form && signature.count >= rules.min_elements && signature.op != kNotPredefined &&
         signature.op == vocabulary.sum && signature.type != kNotPredefined &&
         vocabulary.types[static_cast<size_t>(signature.type)].kind == Vocabulary::TypeKind::kReal &&
         (signature.type_size == sizeof(float) || (rules.doubles && signature.type_size == sizeof(double))) &&
         !facts.inter && facts.size > 1;
}

std::vector<std::string> Doubts(const CommunicatorRecord& record, const Site& site) {
  std::vector<std::string> doubts;
  const auto twin = std::find_if(record.sites.begin(), record.sites.end(), [&](const Site& other) {
    return other.position >= 0 && other.position != site.position && other.signature == site.signature;
  });
  if (twin != record.sites.end()) {
    doubts.push_back("position " + std::to_string(twin->position) +
                     " sums as many elements: is one of the two an average of weights?");
  }
  if (site.tally.calls < kFewRepeats * record.instances) {
    doubts.push_back("seen " + std::to_string(site.tally.calls) +
                     " times only: advise over more steps to be sure of the period");
  }
  return doubts;
}

}  // namespace terse::intercept
