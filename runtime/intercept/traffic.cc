// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/traffic.h"

#include <algorithm>
#include <utility>

namespace terse::intercept {

void Traffic::RecordOutside(const Signature& signature, Binding binding, int64_t ticks,
                            PeriodLearner::Event event) {
  AddOutside(signature, binding, {1, ticks});
  if (event != PeriodLearner::Event::kLearned) return;
  // The same period again keeps its sites; another one replaces them.
  const std::vector<uint64_t>& period = learner_.period();
  const bool same = std::equal(
      period.begin(), period.end(), positions_.begin(), positions_.end(),
      [](uint64_t hash, const Site& site) { return site.tally.calls == 0 || site.signature.Hash() == hash; });
  if (same) return;
  for (const Site& site : positions_) {
    if (site.tally.calls > 0) AddOutside(site.signature, site.binding, site.tally);
  }
  positions_.assign(period.size(), {});
  for (size_t i = 0; i < positions_.size(); ++i) positions_[i].position = static_cast<int32_t>(i);
}

void Traffic::AddOutside(const Signature& signature, Binding binding, const Tally& tally) {
  const Key key{signature, binding};
  auto found = outside_index_.find(key);
  if (found == outside_index_.end()) {
    if (outside_.size() == kMostSites) {
      other_.Add(tally);
      return;
    }
    found = outside_index_.emplace(key, outside_.size()).first;
    outside_.push_back({signature, binding, -1, {}});
  }
  outside_[found->second].tally.Add(tally);
}

std::vector<Site> Traffic::Sites() const {
  std::vector<Site> sites;
  for (const Site& site : positions_) {
    if (site.tally.calls > 0) sites.push_back(site);
  }
  sites.insert(sites.end(), outside_.begin(), outside_.end());
  return sites;
}

CommunicatorRecord MakeRecord(const CommunicatorFacts& facts, const Traffic& traffic) {
  CommunicatorRecord record;
  record.facts = facts;
  record.period = static_cast<int32_t>(traffic.period().period().size());
  record.deviations = traffic.period().deviations();
  record.other = traffic.other();
  record.sites = traffic.Sites();
  return record;
}

bool CommunicatorRecord::SameAs(const CommunicatorRecord& record) const {
  return facts.SameAs(record.facts) && period == record.period &&
         std::equal(sites.begin(), sites.end(), record.sites.begin(), record.sites.end(),
                    [](const Site& a, const Site& b) {
                      return a.signature == b.signature && a.binding == b.binding && a.position == b.position;
                    });
}

void CommunicatorRecord::Add(const CommunicatorRecord& record) {
  instances += record.instances;
  deviations += record.deviations;
  other.Add(record.other);
  for (size_t i = 0; i < sites.size(); ++i) sites[i].tally.Add(record.sites[i].tally);
  if (facts.name.empty()) facts.name = record.facts.name;
  compressed_calls += record.compressed_calls;
  if (!record.group.empty()) group = record.group;
  if (error.empty()) error = record.error;
}

void Ledger::Add(CommunicatorRecord record) {
  if (record.sites.empty() && record.other.calls == 0) return;
  for (CommunicatorRecord& known : records_) {
    if (known.SameAs(record)) {
      known.Add(record);
      return;
    }
  }
  if (records_.size() < kMostRecords) {
    records_.push_back(std::move(record));
    return;
  }
  other_instances_ += record.instances;
  other_.Add(record.other);
  for (const Site& site : record.sites) other_.Add(site.tally);
}

}  // namespace terse::intercept
