// SPDX-License-Identifier: Apache-2.0
//
// What `terse doctor` found: facts in the order in which they were found, by topic. Each is fine as it is,
// worth knowing, or wrong; what is not fine says what to do.
#ifndef TERSE_RUNTIME_CLI_EXAMINATION_H_
#define TERSE_RUNTIME_CLI_EXAMINATION_H_

#include <string>
#include <vector>

namespace terse::cli {

enum class Verdict { kFine, kNote, kWrong };

struct Fact {
  std::string topic;  // "transports"
  std::string name;   // "mpi_openmpi"
  std::string value;  // one line
  Verdict verdict = Verdict::kFine;
  std::string advice;  // a sentence; empty where the verdict is kFine
};

class Examination {
 public:
  void Fine(const std::string& topic, const std::string& name, const std::string& value) {
    facts_.push_back({topic, name, value, Verdict::kFine, ""});
  }
  void Note(const std::string& topic, const std::string& name, const std::string& value,
            const std::string& advice) {
    facts_.push_back({topic, name, value, Verdict::kNote, advice});
  }
  void Wrong(const std::string& topic, const std::string& name, const std::string& value,
             const std::string& advice) {
    facts_.push_back({topic, name, value, Verdict::kWrong, advice});
  }
  void Add(const Fact& fact) { facts_.push_back(fact); }
  const std::vector<Fact>& facts() const { return facts_; }

 private:
  std::vector<Fact> facts_;
};

// For people: the facts under their topics, then what is worth knowing, then what is wrong.
std::string FormatExamination(const Examination& examination);

// As JSON (docs/cli.md).
std::string ExaminationJson(const Examination& examination);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_EXAMINATION_H_
