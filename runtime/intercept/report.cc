// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/report.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/intercept/eligibility.h"

namespace terse::intercept {
namespace {

using Json = nlohmann::ordered_json;

// Of a job, however many ranks it has.
constexpr size_t kMostWarnings = 16;
constexpr size_t kMostHangs = 256;

const char* Name(Binding binding) {
  switch (binding) {
    case Binding::kC:
      return "C";
    case Binding::kMpifH:
      return "mpif.h";
    case Binding::kMpiF08:
      return "mpi_f08";
  }
  return "";
}

const char* Name(Form form) {
  switch (form) {
    case Form::kBlocking:
      return "blocking";
    case Form::kNonblocking:
      return "nonblocking";
    case Form::kPersistent:
      return "persistent";
  }
  return "";
}

// `number`: calls of the same signature before it in the period.
Json SiteJson(const RankFacts& facts, const CommunicatorRecord& record, const Site& site, int32_t number,
              const Vocabulary& vocabulary) {
  const Signature& signature = site.signature;
  const Verdict verdict = Judge(record, site, vocabulary, facts.rules);
  const double seconds = static_cast<double>(site.tally.ticks) * facts.seconds_per_tick;
  const double calls = static_cast<double>(site.tally.calls);
  const std::string type = signature.type == kNotPredefined
                               ? "derived"
                               : vocabulary.types[static_cast<size_t>(signature.type)].name;
  const std::string op =
      signature.op == kNotPredefined ? "user" : vocabulary.ops[static_cast<size_t>(signature.op)];
  return Json{{"position", site.position >= 0 ? Json(site.position) : Json(nullptr)},
              {"count", signature.count},
              {"type", type},
              {"op", op},
              {"bytes", signature.bytes()},
              {"binding", Name(site.binding)},
              {"form", Name(signature.form)},
              {"calls", site.tally.calls},
              {"mean_us", calls > 0 ? 1e6 * seconds / calls : 0.0},
              {"tensor", verdict.compress ? Json(TensorName(type, signature.count, signature.form, number))
                                          : Json(nullptr)},
              {"compress", verdict.compress},
              {"reason", verdict.reason},
              {"doubts", verdict.compress ? Doubts(record, site) : std::vector<std::string>{}}};
}

Json RecordJson(const RankFacts& facts, const CommunicatorRecord& record, const Vocabulary& vocabulary) {
  Json sites = Json::array();
  int64_t calls = record.other.calls;
  int64_t bytes = 0;
  int64_t ticks = record.other.ticks;
  std::map<uint64_t, int32_t> seen;
  for (const Site& site : record.sites) {
    const int32_t number = site.position >= 0 ? seen[site.signature.Hash()]++ : 0;
    sites.push_back(SiteJson(facts, record, site, number, vocabulary));
    calls += site.tally.calls;
    bytes += site.tally.calls * site.signature.bytes();
    ticks += site.tally.ticks;
  }
  Json json{{"name", record.facts.name},
            {"size", record.facts.size},
            {"members", record.facts.members},
            {"inter", record.facts.inter},
            {"ranks", 1},
            {"instances", record.instances},
            {"calls", calls},
            {"bytes", bytes},
            {"seconds", static_cast<double>(ticks) * facts.seconds_per_tick},
            {"uncounted_calls", record.other.calls},
            {"period", record.period > 0 ? Json(record.period) : Json(nullptr)},
            {"deviations", record.deviations},
            {"sites", std::move(sites)}};
  if (record.compressed_calls > 0) json["compressed_calls"] = record.compressed_calls;
  if (!record.group.empty()) json["group"] = Json::parse(record.group, nullptr, false);
  if (!record.error.empty()) json["error"] = record.error;
  return json;
}

// The calls of a rank's report by binding and by form.
Json InterceptedJson(const Ledger& ledger) {
  Json counts{{"calls", 0},    {"C", 0},           {"mpif.h", 0},    {"mpi_f08", 0},
              {"blocking", 0}, {"nonblocking", 0}, {"persistent", 0}};
  const auto add = [&](const char* key, int64_t calls) { counts[key] = counts[key].get<int64_t>() + calls; };
  add("calls", ledger.other().calls);
  for (const CommunicatorRecord& record : ledger.records()) {
    add("calls", record.other.calls);
    for (const Site& site : record.sites) {
      add("calls", site.tally.calls);
      add(Name(site.binding), site.tally.calls);
      add(Name(site.signature.form), site.tally.calls);
    }
  }
  return counts;
}

// The rows that must agree for two ranks to have seen the same communicator.
bool SameCommunicator(const Json& a, const Json& b) {
  for (const char* key : {"members", "size", "inter", "period", "instances"}) {
    if (a.at(key) != b.at(key)) return false;
  }
  const Json& x = a.at("sites");
  const Json& y = b.at("sites");
  if (x.size() != y.size()) return false;
  for (size_t i = 0; i < x.size(); ++i) {
    for (const char* key : {"position", "count", "type", "op", "form", "binding", "calls"}) {
      if (x[i].at(key) != y[i].at(key)) return false;
    }
  }
  return true;
}

double Mean(double mean, double n, double next) { return (mean * n + next) / (n + 1); }

void AddRank(Json* to, const Json& other) {
  const double ranks = to->at("ranks").get<double>();
  (*to)["ranks"] = to->at("ranks").get<int64_t>() + 1;
  (*to)["seconds"] = Mean(to->at("seconds").get<double>(), ranks, other.at("seconds").get<double>());
  for (size_t i = 0; i < to->at("sites").size(); ++i) {
    Json& mean = (*to)["sites"][i]["mean_us"];
    mean = Mean(mean.get<double>(), ranks, other.at("sites")[i].at("mean_us").get<double>());
  }
}

Json HangsJson(const RankFacts& facts) {
  Json events = Json::array();
  double longest = 0;
  for (const HangEvent& event : facts.hangs) {
    longest = std::max(longest, event.seconds);
    events.push_back({{"rank", event.rank},
                      {"call", event.call},
                      {"seconds", event.seconds},
                      {"over", event.over},
                      {"message", event.message}});
  }
  return {{"count", facts.hang_count}, {"longest_s", longest}, {"events", std::move(events)}};
}

void AddHangs(Json* job, const Json& hangs) {
  if (!job->contains("hangs")) {
    (*job)["hangs"] = hangs;
    return;
  }
  Json& all = (*job)["hangs"];
  all["count"] = all["count"].get<int64_t>() + hangs.at("count").get<int64_t>();
  all["longest_s"] = std::max(all["longest_s"].get<double>(), hangs.at("longest_s").get<double>());
  for (const Json& event : hangs.at("events")) {
    if (all["events"].size() < kMostHangs) all["events"].push_back(event);
  }
}

void Merge(Json* job, const Json& rank) {
  (*job)["ranks"].push_back(rank.at("ranks").at(0));
  for (const auto& [key, value] : rank.at("intercepted").items()) {
    Json& sum = (*job)["intercepted"][key];
    sum = sum.get<int64_t>() + value.get<int64_t>();
  }
  if (rank.contains("hangs")) AddHangs(job, rank.at("hangs"));
  // Mostly all ranks say the same.
  for (const Json& warning : rank.at("warnings")) {
    Json& all = (*job)["warnings"];
    if (all.size() < kMostWarnings && std::find(all.begin(), all.end(), warning) == all.end())
      all.push_back(warning);
  }
  for (const Json& communicator : rank.at("communicators")) {
    Json* found = nullptr;
    for (Json& known : (*job)["communicators"]) {
      if (SameCommunicator(known, communicator)) found = &known;
    }
    if (found != nullptr) {
      AddRank(found, communicator);
    } else {
      (*job)["communicators"].push_back(communicator);
    }
  }
}

}  // namespace

std::string RankReport(const RankFacts& facts, const Ledger& ledger, const Vocabulary& vocabulary) {
  Json communicators = Json::array();
  bool compress = false;
  for (const CommunicatorRecord& record : ledger.records()) {
    communicators.push_back(RecordJson(facts, record, vocabulary));
    for (const Json& site : communicators.back().at("sites")) compress |= site.at("compress").get<bool>();
  }
  Json warnings = Json::array();
  if (compress) {
    warnings.push_back(
        "averages of weights and sums of batch statistics look like gradients: confirm each call that would "
        "be "
        "compressed");
  }
  if (ledger.other_instances() > 0) {
    warnings.push_back(std::to_string(ledger.other_instances()) + " communicators are not listed; their " +
                       std::to_string(ledger.other().calls) + " calls count among all");
  }
  if (!facts.forensics_trouble.empty()) {
    warnings.push_back("rank " + std::to_string(facts.rank) +
                       " has no hang forensics: " + facts.forensics_trouble);
  }
  Json report{{"report", kReportVersion},
              {"version", TERSE_VERSION_STRING},
              {"mpi", facts.mpi},
              {"abi", facts.abi},
              {"program", facts.program},
              {"world_size", facts.world_size},
              {"ranks", {facts.rank}},
              {"seconds", facts.seconds},
              {"min_elements", facts.rules.min_elements},
              {"intercepted", InterceptedJson(ledger)},
              {"communicators", std::move(communicators)},
              {"warnings", std::move(warnings)}};
  if (facts.hang_count > 0) report["hangs"] = HangsJson(facts);
  return report.dump(1, ' ', false, Json::error_handler_t::replace);
}

std::string MergeReports(const std::vector<std::string>& reports) {
  Json job;
  for (const std::string& text : reports) {
    Json rank = Json::parse(text, nullptr, false);
    if (!rank.is_object()) continue;
    if (job.is_null()) {
      job = std::move(rank);
      continue;
    }
    Merge(&job, rank);
  }
  return job.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string WriteWhole(const std::string& path, const std::string& text) {
  const std::string partial = path + ".part." + std::to_string(getpid());
  std::FILE* const file = std::fopen(partial.c_str(), "we");
  if (file == nullptr) return "cannot write " + partial + ": " + std::strerror(errno);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  if (written && closed && std::rename(partial.c_str(), path.c_str()) == 0) return "";
  const std::string error = "cannot write " + path + ": " + std::strerror(errno);
  std::remove(partial.c_str());
  return error;
}

}  // namespace terse::intercept
