// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/requests.h"

#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "runtime/intercept/completion.h"
#include "runtime/intercept/forensics.h"
#include "runtime/intercept/tick.h"

namespace terse::intercept {
namespace {

struct Known {
  std::shared_ptr<Communicator> communicator;  // of a persistent one
  std::shared_ptr<Whereabouts> where;          // null where it is not watched
  uint64_t ordinal = 0;                        // of its last start
  // As the program made it. With a tag it stands for `exact`, MPI's own.
  AllReduceCall call;
  MPI_Request exact{};
};

// Never destroyed: other libraries' destructors may still call MPI.
struct Table {
  std::mutex mutex;
  std::unordered_map<uintptr_t, Known> requests;

  void Put(uintptr_t request, Known known) {
    const std::lock_guard<std::mutex> lock(mutex);
    requests.insert_or_assign(request, std::move(known));
    known_requests.store(static_cast<int64_t>(requests.size()), std::memory_order_relaxed);
  }
  std::optional<Known> Find(uintptr_t request) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = requests.find(request);
    return found == requests.end() ? std::nullopt : std::optional<Known>(found->second);
  }
};
Table& GetTable() {
  static Table* const table = new Table;
  return *table;
}

bool IsPersistent(const Known& known) { return known.communicator != nullptr; }

// Of a request that stands for MPI's: it has been started, and is completed by what happens here.
int StartExactOrCompressed(const Known& known) {
  int result = MPI_SUCCESS;
  if (TakeCall(known.communicator.get(), known.call, &result)) {
    if (result != MPI_SUCCESS) CompleteRequest(known.call.tag, true);
    return result;
  }
  MPI_Request exact = known.exact;
  result = GetPmpi().Start(&exact);
  if (result == MPI_SUCCESS) known.communicator->Follow(exact, known.call);
  return result;
}

}  // namespace

void AddPersistent(const AllReduceCall& made) {
  Known known;
  known.communicator = ShareCommunicator(made.comm);
  if (known.communicator == nullptr) return;
  known.where = known.communicator->where();
  known.call = made;
  known.call.signature = MakeSignature(made.count, made.type, made.op, made.form);
  AddDerivedSize(made.type, &known.call.signature);
  if (compressing.load(std::memory_order_relaxed) && known.communicator->MayCompress(known.call)) {
    MPI_Request ours{};
    known.call.tag = MakeRequest(Form::kPersistent, &ours);
    if (known.call.tag >= 0) known.exact = std::exchange(*made.request, ours);
  }
  known.call.request = nullptr;  // the program's variable is its own again
  GetTable().Put(Bits(*made.request), std::move(known));
}

int NoteStarted(MPI_Request request, int64_t ticks) {
  std::optional<Known> known = GetTable().Find(Bits(request));
  if (!known.has_value() || !IsPersistent(*known)) return MPI_SUCCESS;
  if (known->where != nullptr) {
    known->where->Enter(known->call.signature, Now() - ticks);
    known->where->Leave(true, Now());
    known->ordinal = known->where->ordinal();
    GetTable().Put(Bits(request), *known);
  }
  int result = MPI_SUCCESS;
  if (known->call.tag >= 0) {
    result = StartExactOrCompressed(*known);
  } else if (compressing.load(std::memory_order_relaxed)) {
    known->communicator->Take(known->call.signature, nullptr);
  }
  if (result == MPI_SUCCESS) {
    known->communicator->Record(known->call.signature, known->call.binding, ticks);
  }
  return result;
}

void ForgetRequest(uintptr_t request) {
  Table& table = GetTable();
  Known known;
  {
    const std::lock_guard<std::mutex> lock(table.mutex);
    const auto found = table.requests.find(request);
    if (found == table.requests.end()) return;
    known = std::move(found->second);  // the communicator may end with it, outside of the table
    table.requests.erase(found);
    known_requests.store(static_cast<int64_t>(table.requests.size()), std::memory_order_relaxed);
  }
  if (known.call.tag >= 0) GetPmpi().Request_free(&known.exact);
}

void AddStarted(const Communicator& communicator, const Signature& signature, MPI_Request request) {
  Known known;
  known.where = communicator.where();
  known.ordinal = known.where->ordinal();
  known.call.signature = signature;
  GetTable().Put(Bits(request), std::move(known));
}

Completing::Completing(bool waits, const std::vector<MPI_Request>& requests) {
  const Pmpi& pmpi = GetPmpi();
  Board* const board = waits ? WatchedBoard() : nullptr;
  for (size_t i = 0; i < requests.size(); ++i) {
    const uintptr_t bits = Bits(requests[i]);
    const std::optional<Known> known = GetTable().Find(bits);
    if (!known.has_value()) continue;
    if (!IsPersistent(*known)) known_.emplace_back(i, bits);
    if (board == nullptr || known->where == nullptr) continue;
    int over = 0;
    // A persistent one may not even be started.
    if (IsPersistent(*known)) pmpi.Request_get_status(requests[i], &over, MPI_STATUS_IGNORE);
    if (over == 0) waits_.emplace_back(board, known->where, known->ordinal, known->call.signature, Now());
  }
}

}  // namespace terse::intercept
