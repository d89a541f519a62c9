// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/service/job_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace terse::controller {
namespace {

// A name that goes into a command line as it is.
std::string IdOf(const std::string& name, int64_t number) {
  constexpr size_t kMost = 48;
  std::string id;
  for (const char c : name.substr(0, kMost))
    id += absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' ? c : '-';
  return absl::StrCat(id, "-", number);
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobTable>> JobTable::Load(Store* store, size_t most_jobs, Clock clock) {
  std::unique_ptr<JobTable> table(new JobTable(store, most_jobs, std::move(clock)));
  absl::StatusOr<std::vector<StoredJob>> stored = store->LoadJobs();
  if (!stored.ok()) return stored.status();
  transport::MutexLock lock(table->mutex_);
  for (StoredJob& one : *stored) {
    if (absl::Status status = Job::CheckRegistration(one.registration); !status.ok()) {
      return absl::DataLossError(absl::StrCat("the store: job ", one.id, ": ", status.message()));
    }
    auto job = std::make_shared<Job>(std::move(one), store);
    table->by_id_[job->id()] = job;
    table->by_instance_[job->instance()] = job;
  }
  return table;
}

absl::Status JobTable::MakeRoom() {
  if (by_id_.size() < most_jobs_) return absl::OkStatus();
  std::shared_ptr<Job> oldest;
  int64_t since = 0;
  const int64_t now = clock_();
  for (const auto& [id, job] : by_id_) {
    if (!job->Over(now)) continue;
    const int64_t reported = job->State(now, false).reported_us();
    if (oldest != nullptr && reported >= since) continue;
    oldest = job;
    since = reported;
  }
  if (oldest == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat(by_id_.size(), " jobs run, and this controller takes no more (--most-jobs)"));
  }
  if (absl::Status status = store_.RemoveJob(oldest->id()); !status.ok()) return status;
  by_id_.erase(oldest->id());
  by_instance_.erase(oldest->instance());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Job>> JobTable::Register(const v1::RegisterJobRequest& registration) {
  if (absl::Status status = Job::CheckRegistration(registration); !status.ok()) return status;
  transport::MutexLock lock(mutex_);
  if (const auto known = by_instance_.find(registration.instance()); known != by_instance_.end()) {
    if (absl::Status status = known->second->RegisterAgain(registration, clock_()); !status.ok())
      return status;
    Changed();
    return known->second;
  }
  if (absl::Status status = MakeRoom(); !status.ok()) return status;
  const absl::StatusOr<int64_t> number = store_.NextNumber();
  if (!number.ok()) return number.status();
  StoredJob stored;
  stored.id = IdOf(registration.name(), *number);
  stored.registration = registration;
  stored.registered_us = clock_();
  if (absl::Status status = store_.SaveJob(stored); !status.ok()) return status;
  auto job = std::make_shared<Job>(std::move(stored), &store_);
  by_id_[job->id()] = job;
  by_instance_[job->instance()] = job;
  Changed();
  return job;
}

absl::StatusOr<std::shared_ptr<Job>> JobTable::Find(const std::string& id) const {
  transport::MutexLock lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return absl::NotFoundError(absl::StrCat("there is no job '", id, "'"));
  return found->second;
}

std::vector<std::shared_ptr<Job>> JobTable::All() const {
  transport::MutexLock lock(mutex_);
  std::vector<std::shared_ptr<Job>> all;
  for (const auto& [id, job] : by_id_) all.push_back(job);
  return all;
}

absl::Status JobTable::Remove(const std::string& id) {
  transport::MutexLock lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return absl::NotFoundError(absl::StrCat("there is no job '", id, "'"));
  if (!found->second->Over(clock_())) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", id, " runs; it can be removed when it is over"));
  }
  if (absl::Status status = store_.RemoveJob(id); !status.ok()) return status;
  by_instance_.erase(found->second->instance());
  by_id_.erase(found);
  Changed();
  return absl::OkStatus();
}

void JobTable::Changed() {
  transport::MutexLock lock(news_mutex_);
  ++news_;
  news_came_.NotifyAll();
}

uint64_t JobTable::AwaitChange(uint64_t seen, std::chrono::milliseconds most) {
  const auto deadline = std::chrono::steady_clock::now() + most;
  transport::MutexLock lock(news_mutex_);
  while (news_ == seen && news_came_.WaitUntil(news_mutex_, deadline)) {
  }
  return news_;
}

}  // namespace terse::controller
