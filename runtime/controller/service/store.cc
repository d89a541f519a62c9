// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/service/store.h"

#include <sqlite3.h>

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace terse::controller {
namespace {

constexpr int kVersion = 1;
// An audit log that grows without end would be a way to fill a disk.
constexpr int64_t kMostAudit = 100000;

constexpr char kSchema[] = R"(
CREATE TABLE IF NOT EXISTS jobs(
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, registration BLOB NOT NULL, commands BLOB NOT NULL,
  registered_us INTEGER NOT NULL, reported_us INTEGER NOT NULL, finished INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS plans(
  job TEXT NOT NULL, version INTEGER NOT NULL, plan BLOB NOT NULL, PRIMARY KEY(job, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit(
  number INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, entry BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS audit_job ON audit(job, number);
)";

absl::Status Failure(sqlite3* database, const char* doing) {
  const int code = sqlite3_errcode(database);
  const std::string message = absl::StrCat("the store: ", doing, ": ", sqlite3_errmsg(database));
  if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
    return absl::FailedPreconditionError(absl::StrCat(message, "; another terse-controller uses it"));
  if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) return absl::FailedPreconditionError(message);
  if (code == SQLITE_FULL) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

}  // namespace

// One statement's life: bind in order, then run it or step through its rows.
class Store::Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int64_t value) {
    if (statement_ != nullptr) sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  Statement& Bind(const std::string& text) {
    if (statement_ != nullptr)
      sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    return *this;
  }
  Statement& Bind(const google::protobuf::MessageLite& message) {
    const std::string bytes = message.SerializeAsString();
    if (statement_ != nullptr)
      sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
    return *this;
  }

  // Calls `row` for each row. Reads of a column go by number.
  absl::Status Each(const char* doing, const std::function<absl::Status()>& row = {}) {
    if (statement_ == nullptr) return Failure(database_, doing);
    for (;;) {
      const int result = sqlite3_step(statement_);
      if (result == SQLITE_DONE) return absl::OkStatus();
      if (result != SQLITE_ROW) return Failure(database_, doing);
      if (!row) continue;
      if (absl::Status status = row(); !status.ok()) return status;
    }
  }
  int64_t Integer(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string Text(int column) const {
    const void* const bytes = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    return bytes == nullptr ? std::string()
                            : std::string(static_cast<const char*>(bytes), static_cast<size_t>(size));
  }
  absl::Status Message(int column, google::protobuf::MessageLite* message) const {
    if (message->ParseFromString(Text(column))) return absl::OkStatus();
    return absl::DataLossError("the store: a row is damaged");
  }

 private:
  sqlite3* const database_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& path) {
  sqlite3* database = nullptr;
  const int result =
      sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  std::unique_ptr<Store> store(new Store(database));
  if (result != SQLITE_OK) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the store ", path, ": ",
                     database == nullptr ? "out of memory" : sqlite3_errmsg(database)));
  }
  transport::MutexLock lock(store->mutex_);
  if (absl::Status status = store->Prepare(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  return store;
}

absl::Status Store::Prepare() {
  // One controller at a time: the lock is held as long as the file is open.
  for (const char* const pragma :
       {"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"}) {
    if (absl::Status status = Run(pragma); !status.ok()) return status;
  }
  int64_t version = 0;
  {
    Statement read(database_, "PRAGMA user_version");
    if (absl::Status status = read.Each("reading its version",
                                        [&] {
                                          version = read.Integer(0);
                                          return absl::OkStatus();
                                        });
        !status.ok()) {
      return status;
    }
  }
  if (version != 0 && version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the store is of version ", version, ", this controller knows ", kVersion));
  }
  if (absl::Status status = Run("BEGIN IMMEDIATE"); !status.ok()) return status;
  if (absl::Status status = Run(kSchema); !status.ok()) return status;
  if (absl::Status status = Run(absl::StrCat("PRAGMA user_version=", kVersion).c_str()); !status.ok())
    return status;
  return Run("COMMIT");
}

Store::~Store() { sqlite3_close(database_); }

absl::Status Store::Run(const char* sql) {
  if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return absl::OkStatus();
  return Failure(database_, sql);
}

absl::StatusOr<std::vector<StoredJob>> Store::LoadJobs() {
  transport::MutexLock lock(mutex_);
  std::vector<StoredJob> jobs;
  Statement read(
      database_,
      "SELECT id, registration, commands, registered_us, reported_us, finished FROM jobs ORDER BY number");
  absl::Status status = read.Each("reading jobs", [&] {
    StoredJob& job = jobs.emplace_back();
    job.id = read.Text(0);
    if (absl::Status damaged = read.Message(1, &job.registration); !damaged.ok()) return damaged;
    if (absl::Status damaged = read.Message(2, &job.commands); !damaged.ok()) return damaged;
    job.registered_us = read.Integer(3);
    job.reported_us = read.Integer(4);
    job.finished = read.Integer(5) != 0;
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return jobs;
}

absl::StatusOr<int64_t> Store::NextNumber() {
  transport::MutexLock lock(mutex_);
  int64_t number = 1;
  Statement read(database_, "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'");
  absl::Status status = read.Each("counting jobs", [&] {
    number = read.Integer(0) + 1;
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return number;
}

absl::Status Store::SaveJob(const StoredJob& job) {
  transport::MutexLock lock(mutex_);
  Statement update(database_,
                   "UPDATE jobs SET registration=?, commands=?, reported_us=?, finished=? WHERE id=?");
  absl::Status status = update.Bind(job.registration)
                            .Bind(job.commands)
                            .Bind(job.reported_us)
                            .Bind(int64_t{job.finished})
                            .Bind(job.id)
                            .Each("writing a job");
  if (!status.ok() || sqlite3_changes(database_) > 0) return status;
  Statement insert(database_,
                   "INSERT INTO jobs(id, registration, commands, registered_us, reported_us, finished) "
                   "VALUES(?,?,?,?,?,?)");
  return insert.Bind(job.id)
      .Bind(job.registration)
      .Bind(job.commands)
      .Bind(job.registered_us)
      .Bind(job.reported_us)
      .Bind(int64_t{job.finished})
      .Each("writing a job");
}

absl::Status Store::SaveCommands(const std::string& job, const v1::Commands& commands) {
  transport::MutexLock lock(mutex_);
  Statement write(database_, "UPDATE jobs SET commands=? WHERE id=?");
  return write.Bind(commands).Bind(job).Each("writing commands");
}

absl::Status Store::SaveSeen(const std::string& job, int64_t reported_us, bool finished) {
  transport::MutexLock lock(mutex_);
  Statement write(database_, "UPDATE jobs SET reported_us=?, finished=? WHERE id=?");
  return write.Bind(reported_us).Bind(int64_t{finished}).Bind(job).Each("writing a job");
}

absl::Status Store::RemoveJob(const std::string& job) {
  transport::MutexLock lock(mutex_);
  if (absl::Status status = Run("BEGIN IMMEDIATE"); !status.ok()) return status;
  absl::Status status =
      Statement(database_, "DELETE FROM plans WHERE job=?").Bind(job).Each("removing plans");
  if (status.ok())
    status = Statement(database_, "DELETE FROM jobs WHERE id=?").Bind(job).Each("removing a job");
  if (status.ok()) return Run("COMMIT");
  (void)Run("ROLLBACK");
  return status;
}

absl::Status Store::SavePlan(const v1::Plan& plan) {
  transport::MutexLock lock(mutex_);
  Statement write(database_, "INSERT OR REPLACE INTO plans(job, version, plan) VALUES(?,?,?)");
  return write.Bind(plan.job_id()).Bind(int64_t{plan.version()}).Bind(plan).Each("writing a plan");
}

absl::StatusOr<std::vector<v1::Plan>> Store::LoadPlans(const std::string& job, uint32_t first,
                                                       uint32_t most) {
  transport::MutexLock lock(mutex_);
  std::vector<v1::Plan> plans;
  Statement read(database_, "SELECT plan FROM plans WHERE job=? AND version>=? ORDER BY version LIMIT ?");
  read.Bind(job).Bind(int64_t{first}).Bind(int64_t{most});
  absl::Status status = read.Each("reading plans", [&] { return read.Message(0, &plans.emplace_back()); });
  if (!status.ok()) return status;
  return plans;
}

absl::StatusOr<v1::Plan> Store::LoadPlan(const std::string& job, uint32_t version) {
  transport::MutexLock lock(mutex_);
  v1::Plan plan;
  bool found = false;
  Statement read(database_, "SELECT plan FROM plans WHERE job=? AND version=?");
  read.Bind(job).Bind(int64_t{version});
  absl::Status status = read.Each("reading a plan", [&] {
    found = true;
    return read.Message(0, &plan);
  });
  if (!status.ok()) return status;
  if (!found) return absl::NotFoundError(absl::StrCat("job ", job, " has no plan ", version));
  return plan;
}

absl::Status Store::AddAudit(const v1::AuditEntry& entry) {
  transport::MutexLock lock(mutex_);
  Statement write(database_, "INSERT INTO audit(job, entry) VALUES(?,?)");
  if (absl::Status status = write.Bind(entry.job_id()).Bind(entry).Each("writing the audit log");
      !status.ok())
    return status;
  const int64_t last = sqlite3_last_insert_rowid(database_);
  if (last % 1000 != 0) return absl::OkStatus();
  return Statement(database_, "DELETE FROM audit WHERE number<=?")
      .Bind(last - kMostAudit)
      .Each("trimming the audit log");
}

absl::StatusOr<std::vector<v1::AuditEntry>> Store::LoadAudit(const std::string& job, uint32_t most) {
  transport::MutexLock lock(mutex_);
  std::vector<v1::AuditEntry> entries;
  Statement read(database_, job.empty() ? "SELECT entry FROM audit WHERE ?='' ORDER BY number DESC LIMIT ?"
                                        : "SELECT entry FROM audit WHERE job=? ORDER BY number DESC LIMIT ?");
  read.Bind(job).Bind(int64_t{most});
  absl::Status status =
      read.Each("reading the audit log", [&] { return read.Message(0, &entries.emplace_back()); });
  if (!status.ok()) return status;
  return entries;
}

}  // namespace terse::controller
