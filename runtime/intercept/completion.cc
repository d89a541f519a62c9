// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/completion.h"

#include "runtime/intercept/library.h"

namespace terse::intercept {
namespace {

using Failed = std::atomic<bool>;

// MPI asks generalized requests for their status, once, when they are waited for.
extern "C" {
static int QueryRequest(void* state, MPI_Status* status) {
  const Pmpi& pmpi = GetPmpi();
  status->MPI_SOURCE = MPI_ANY_SOURCE;
  status->MPI_TAG = MPI_ANY_TAG;
  status->MPI_ERROR = MPI_SUCCESS;
  pmpi.Status_set_elements(status, pmpi.char_type, 0);
  pmpi.Status_set_cancelled(status, 0);
  return static_cast<Failed*>(state)->load(std::memory_order_relaxed) ? MPI_ERR_OTHER : MPI_SUCCESS;
}
static int FreeRequest(void* state) {
  delete static_cast<Failed*>(state);
  return MPI_SUCCESS;
}
// MPI knows no cancelled collective.
static int CancelRequest(void*, int) { return MPI_SUCCESS; }
}  // extern "C"

// Where the messages to this process itself travel.
struct Messages {
  MPI_Comm comm{};
  int rank = -1;  // negative: nowhere
  std::atomic<int> next_tag{0};
};
Messages messages;

}  // namespace

GeneralizedRequest GeneralizedRequest::Start() {
  GeneralizedRequest request;
  request.failed_ = new Failed(false);
  GetPmpi().Grequest_start(QueryRequest, FreeRequest, CancelRequest, request.failed_, &request.handle_);
  return request;
}

void GeneralizedRequest::Complete(bool failed) const {
  if (failed) failed_->store(true, std::memory_order_relaxed);
  GetPmpi().Grequest_complete(handle_);
}

void SetMessages(MPI_Comm comm, int rank) {
  messages.comm = comm;
  messages.rank = rank;
}

int MakePersistent(MPI_Request* request) {
  constexpr int kTags = 32767;  // as many as every MPI has
  if (messages.rank < 0) return -1;
  const Pmpi& pmpi = GetPmpi();
  // A tag comes again after so many requests. Where its first one is still there, messages match in the order
  // of the starts.
  const int tag = messages.next_tag.fetch_add(1, std::memory_order_relaxed) % kTags;
  const int result = pmpi.Recv_init(nullptr, 0, pmpi.char_type, messages.rank, tag, messages.comm, request);
  return result == MPI_SUCCESS ? tag : -1;
}

void CompletePersistent(int tag, bool failed) {
  const Pmpi& pmpi = GetPmpi();
  const char too_long = 0;
  pmpi.Send(&too_long, failed ? 1 : 0, pmpi.char_type, messages.rank, tag, messages.comm);
}

}  // namespace terse::intercept
