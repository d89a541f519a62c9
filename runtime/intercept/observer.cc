// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/observer.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/intercept/completion.h"
#include "runtime/intercept/eligibility.h"
#include "runtime/intercept/forensics.h"
#include "runtime/intercept/library.h"
#include "runtime/intercept/report.h"
#include "runtime/intercept/settings.h"
#include "runtime/intercept/tick.h"

namespace terse::intercept {
namespace {

using Shared = std::shared_ptr<Communicator>;

// The process's part. It is never destroyed: other libraries' destructors may still call MPI. What is
// under `mutex` is touched when a communicator comes or goes, and at the end.
struct Process {
  std::string report_path;
  Rules rules;
  pid_t pid = 0;
  TickRate rate;

  std::atomic<bool> attached{false};
  int comm_keyval = MPI_KEYVAL_INVALID;
  int self_keyval = MPI_KEYVAL_INVALID;
  int rank = 0;
  int world_size = 1;
  std::string mpi_name;
  MPI_Comm private_world{};  // made in MPI_Init, for the report; null when that was not seen
  bool has_private_world = false;
  bool threads = false;  // all ranks have MPI_THREAD_MULTIPLE, and know it of each other

  std::mutex mutex;
  // In the order in which they came, which is that of their first calls: alike on ranks that share several.
  std::vector<Communicator*> live;
  Ledger ledger;
  bool reported = false;
  std::mutex attach_mutex;
};
Process* process = nullptr;  // set by the constructor where calls are observed

// The communicator that this thread used last. `generation` counts the communicators that are gone: a
// handle means the same as before as long as none has gone.
std::atomic<uint64_t> generation{1};
struct LastUsed {
  uint64_t generation = 0;
  uintptr_t handle = 0;
  Communicator* communicator = nullptr;
};
thread_local LastUsed last_used __attribute__((tls_model("initial-exec")));
thread_local std::string next_name;

int64_t MinElements() {
  const char* const text = std::getenv("TERSE_MIN_ELEMENTS");
  if (text == nullptr) return kDefaultMinElements;
  int64_t value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stopped, error] = std::from_chars(text, end, value);
  return error == std::errc() && stopped == end && value >= 0 ? value : kDefaultMinElements;
}

std::string ProgramFile() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "";
}

std::string MpiName() {
  std::vector<char> text(MPI_MAX_LIBRARY_VERSION_STRING + 1, '\0');
  int length = 0;
  if (GetPmpi().Get_library_version(text.data(), &length) != MPI_SUCCESS) return "";
  std::string name(text.data());
  name = name.substr(0, name.find_first_of("\n,"));
  std::replace(name.begin(), name.end(), '\t', ' ');
  return name;
}

// This rank's report, of the communicators that are gone and those that are there.
std::string OwnReport() {
  RankFacts facts;
  facts.rank = process->rank;
  facts.world_size = process->world_size;
  facts.abi = kAbi;
  facts.mpi = process->mpi_name;
  facts.program = ProgramFile();
  facts.rules = process->rules;
  facts.seconds = process->rate.Seconds();
  facts.seconds_per_tick = process->rate.SecondsPerTick();
  facts.hangs = HangEvents(&facts.hang_count);
  facts.forensics_trouble = ForensicsTrouble();
  const std::lock_guard<std::mutex> lock(process->mutex);
  Ledger ledger = process->ledger;
  for (const Communicator* communicator : process->live) ledger.Add(communicator->Snapshot());
  // What calls were judged by; it was read when the first communicator came.
  const Rules* const rules = CompressionIsAskedFor() && !ledger.records().empty() ? JobRules() : nullptr;
  if (rules != nullptr) facts.rules = *rules;
  return RankReport(facts, ledger, GetVocabulary());
}

void Write(const std::string& path, const std::string& text) {
  if (process->report_path.empty()) return;
  if (const std::string error = WriteWhole(path, text); !error.empty()) {
    std::fprintf(stderr, "terse: TERSE_REPORT: %s\n", error.c_str());
  }
}

bool FirstToReport() {
  const std::lock_guard<std::mutex> lock(process->mutex);
  return !std::exchange(process->reported, true);
}

// Without the others: rank 0 in the file that was asked for, the others beside it.
void ReportAlone() {
  const std::string suffix = process->rank == 0 ? "" : "." + std::to_string(process->rank);
  Write(process->report_path + suffix, MergeReports({OwnReport()}));
}

// All ranks are in MPI_Finalize. Rank 0 writes what all of them saw.
void ReportTogether() {
  const Pmpi& pmpi = GetPmpi();
  MPI_Comm comm = process->private_world;
  const std::string own = OwnReport();
  int size = static_cast<int>(own.size());
  const auto ranks = static_cast<size_t>(process->world_size);
  std::vector<int> sizes(ranks);
  std::vector<int> offsets(ranks);
  int result = pmpi.Gather(&size, 1, pmpi.int_type, sizes.data(), 1, pmpi.int_type, 0, comm);
  int64_t total = 0;
  for (size_t i = 0; i < ranks; ++i) {
    offsets[i] = static_cast<int>(total);
    total += sizes[i];
  }
  std::string all(process->rank == 0 ? static_cast<size_t>(total) : 0, '\0');
  if (result == MPI_SUCCESS) {
    result = pmpi.Gatherv(own.data(), size, pmpi.char_type, all.data(), sizes.data(), offsets.data(),
                          pmpi.char_type, 0, comm);
  }
  if (result != MPI_SUCCESS) {
    ReportAlone();
  } else if (process->rank == 0) {
    std::vector<std::string> reports;
    for (size_t i = 0; i < ranks; ++i) {
      reports.push_back(all.substr(static_cast<size_t>(offsets[i]), static_cast<size_t>(sizes[i])));
    }
    Write(process->report_path, MergeReports(reports));
  }
}

// MPI is about to end: the groups are closed while all ranks are there.
void CloseAll() {
  compressing.store(false, std::memory_order_relaxed);
  std::vector<Communicator*> live;
  {
    const std::lock_guard<std::mutex> lock(process->mutex);
    live = process->live;
  }
  for (Communicator* const communicator : live) communicator->Close();
}

extern "C" {
static int CopyNothing(MPI_Comm, int, void*, void*, void*, int* copied) {
  *copied = 0;
  return MPI_SUCCESS;
}

static int OnCommunicatorDeleted(MPI_Comm, int, void* value, void*) {
  generation.fetch_add(1, std::memory_order_acq_rel);
  auto* const state = static_cast<Shared*>(value);
  (*state)->Close();
  delete state;
  return MPI_SUCCESS;
}

// MPI_Finalize deletes the attributes of MPI_COMM_SELF before it does anything else.
static int OnFinalize(MPI_Comm, int, void*, void*) {
  EnterFinalize();
  CloseAll();
  if (FirstToReport()) {
    if (process->has_private_world) {
      ReportTogether();
    } else {
      ReportAlone();
    }
  }
  observing.store(false, std::memory_order_relaxed);
  if (process->has_private_world) {
    StopForensics(process->private_world);
    GetPmpi().Comm_free(&process->private_world);
  }
  return MPI_SUCCESS;
}
}  // extern "C"

// Puts the attributes in place, once; attach_mutex is held. False when there is no world to attach to (a
// program that uses MPI by sessions alone).
bool PutAttributes() {
  const Pmpi& pmpi = GetPmpi();
  int initialized = 0;
  if (pmpi.Initialized(&initialized) != MPI_SUCCESS || initialized == 0) return false;
  pmpi.Comm_rank(pmpi.world, &process->rank);
  pmpi.Comm_size(pmpi.world, &process->world_size);
  process->mpi_name = MpiName();
  pmpi.Comm_create_keyval(CopyNothing, OnCommunicatorDeleted, &process->comm_keyval, nullptr);
  pmpi.Comm_create_keyval(CopyNothing, OnFinalize, &process->self_keyval, nullptr);
  pmpi.Comm_set_attr(pmpi.self, process->self_keyval, process);
  return true;
}

// At the first call where MPI_Init was not seen; where it is under way, this waits for it.
bool Attach() {
  if (process->attached.load(std::memory_order_acquire)) return true;
  const std::lock_guard<std::mutex> lock(process->attach_mutex);
  if (process->attached.load(std::memory_order_relaxed)) return true;
  if (!PutAttributes()) return false;
  process->attached.store(true, std::memory_order_release);
  return true;
}

// What all ranks do together in MPI_Init, apart from the program's communicators.
void MeetOtherRanks() {
  if (!MakePrivate(GetPmpi().world, &process->private_world)) return;
  process->has_private_world = true;
  SetMessages(process->private_world, process->rank);
  const Pmpi& pmpi = GetPmpi();
  int level = MPI_THREAD_SINGLE;
  pmpi.Query_thread(&level);
  int fewer = level == MPI_THREAD_MULTIPLE ? 0 : 1;
  int most_fewer = 1;
  process->threads = pmpi.Allreduce(&fewer, &most_fewer, 1, pmpi.int_type, pmpi.max,
                                    process->private_world) == MPI_SUCCESS &&
                     most_fewer == 0;
  StartForensics(process->private_world, process->rank, process->world_size);
}

// Of a communicator's ranks.
std::vector<int> RanksInWorld(MPI_Comm comm) {
  const Pmpi& pmpi = GetPmpi();
  MPI_Group group;
  MPI_Group world;
  pmpi.Comm_group(comm, &group);
  pmpi.Comm_group(pmpi.world, &world);
  int size = 0;
  pmpi.Group_size(group, &size);
  std::vector<int> ranks(static_cast<size_t>(size));
  std::vector<int> world_ranks(ranks.size());
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = static_cast<int>(i);
  pmpi.Group_translate_ranks(group, size, ranks.data(), world, world_ranks.data());
  pmpi.Group_free(&group);
  pmpi.Group_free(&world);
  return world_ranks;
}

// FNV-1a over the ranks in MPI_COMM_WORLD.
uint64_t HashMembers(const std::vector<int>& ranks) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int rank : ranks) hash = (hash ^ static_cast<uint32_t>(rank)) * 0x100000001b3u;
  return hash >> 12;  // every reader of JSON keeps 52 bits
}

CommunicatorFacts FactsOf(MPI_Comm comm, const std::vector<int>& ranks) {
  const Pmpi& pmpi = GetPmpi();
  CommunicatorFacts facts;
  int size = 0;
  int inter = 0;
  pmpi.Comm_size(comm, &size);
  pmpi.Comm_test_inter(comm, &inter);
  facts.size = size;
  facts.inter = inter != 0;
  facts.threads = process->threads;
  facts.members = HashMembers(ranks);
  std::vector<char> name(MPI_MAX_OBJECT_NAME + 1, '\0');
  int length = 0;
  pmpi.Comm_get_name(comm, name.data(), &length);
  facts.name = name.data();
  // Open MPI numbers those that the program has not named; the numbers say nothing.
  if (facts.name.starts_with("MPI COMM")) facts.name.clear();
  return facts;
}

// The state that hangs on a communicator; null once MPI is on its way out, and where it does not know the
// handle.
Shared* StateOf(MPI_Comm comm) {
  const Pmpi& pmpi = GetPmpi();
  if (comm == pmpi.no_comm || !Attach()) return nullptr;
  void* value = nullptr;
  int found = 0;
  if (pmpi.Comm_get_attr(comm, process->comm_keyval, &value, &found) != MPI_SUCCESS) return nullptr;
  if (found == 0) {
    // Two threads may come at once with their first calls.
    const std::lock_guard<std::mutex> lock(process->attach_mutex);
    pmpi.Comm_get_attr(comm, process->comm_keyval, &value, &found);
    if (found == 0) {
      const std::vector<int> ranks = RanksInWorld(comm);
      const CommunicatorFacts facts = FactsOf(comm, ranks);
      auto* const made = new Shared(std::make_shared<Communicator>(facts, Watched(facts, ranks)));
      if (compressing.load(std::memory_order_relaxed)) (*made)->Compress(comm);
      {
        const std::lock_guard<std::mutex> live_lock(process->mutex);
        process->live.push_back(made->get());
      }
      pmpi.Comm_set_attr(comm, process->comm_keyval, made);
      value = made;
    }
  }
  return static_cast<Shared*>(value);
}

__attribute__((constructor)) void Load() {
  RefuseOtherMpi();
  const char* const path = std::getenv("TERSE_REPORT");
  const char* const disable = std::getenv("TERSE_DISABLE");
  const bool report = path != nullptr && *path != '\0';
  if (!report && !CompressionIsAskedFor()) return;
  if (disable != nullptr && std::string_view(disable) == "1") return;
  process = new Process;
  if (report) process->report_path = path;
  process->rules = {MinElements(), DoublesAreAskedFor()};
  process->pid = getpid();
  compressing.store(CompressionIsAskedFor(), std::memory_order_relaxed);
  raising_threads.store(CompressionIsAskedFor() && ProgressThreadIsAskedFor(), std::memory_order_relaxed);
  observing.store(true, std::memory_order_relaxed);
}

// The backup for programs that never call MPI_Finalize. The others may be gone, so no MPI here; and a child
// that was forked has nothing to say.
__attribute__((destructor)) void Unload() {
  if (process == nullptr || process->pid != getpid()) return;
  StopForensicsAlone();
  if (process->attached.load(std::memory_order_acquire) && FirstToReport()) ReportAlone();
  observing.store(false, std::memory_order_relaxed);
}

}  // namespace

Communicator::~Communicator() {
  CommunicatorRecord record = Snapshot();
  const std::lock_guard<std::mutex> lock(process->mutex);
  std::erase(process->live, this);
  process->ledger.Add(std::move(record));
}

Initializing::Initializing() : lock_(process->attach_mutex) {}

void Initializing::Succeeded() {
  if (!PutAttributes()) return;
  MeetOtherRanks();
  process->attached.store(true, std::memory_order_release);
}

Communicator* FindCommunicator(MPI_Comm comm) {
  const uint64_t now = generation.load(std::memory_order_acquire);
  if (last_used.generation == now && last_used.handle == Bits(comm)) return last_used.communicator;
  Shared* const state = StateOf(comm);
  if (state == nullptr) return nullptr;
  last_used = {now, Bits(comm), state->get()};
  return state->get();
}

std::shared_ptr<Communicator> ShareCommunicator(MPI_Comm comm) {
  const Shared* const state = StateOf(comm);
  return state == nullptr ? nullptr : *state;
}

void NameNext(const char* name) {
  constexpr size_t kMostBytes = 1000;
  if (name == nullptr || !compressing.load(std::memory_order_relaxed)) return;
  const size_t length = strnlen(name, kMostBytes + 1);
  if (length == 0 || length > kMostBytes || std::memchr(name, '\n', length) != nullptr) return;
  next_name.assign(name, length);
}

bool TakeCall(Communicator* communicator, AllReduceCall call, int* result) {
  const std::string name = std::exchange(next_name, {});
  call.name = name;
  // What MPI has to complain of is left to it.
  if (communicator == nullptr) return false;
  switch (communicator->Take(call.signature, &call)) {
    case Exchange::Outcome::kPass:
      return false;
    case Exchange::Outcome::kDone:
      *result = MPI_SUCCESS;
      return true;
    case Exchange::Outcome::kFailed:
      break;
  }
  std::fprintf(stderr, "terse: %s\n", communicator->error().c_str());
  GetPmpi().Comm_call_errhandler(call.comm, MPI_ERR_OTHER);
  *result = MPI_ERR_OTHER;
  return true;
}

}  // namespace terse::intercept

extern "C" __attribute__((visibility("default"))) void terse_preload_name_next(const char* name) {
  terse::intercept::NameNext(name);
}
