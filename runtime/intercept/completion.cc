// SPDX-License-Identifier: Apache-2.0
#include "runtime/intercept/completion.h"

#include <atomic>

#include "runtime/intercept/library.h"

namespace terse::intercept {
namespace {

// Where the messages to this process itself travel.
struct Messages {
  MPI_Comm comm{};
  int rank = -1;  // negative: nowhere
  std::atomic<int> next_tag{0};
};
Messages messages;

}  // namespace

void SetMessages(MPI_Comm comm, int rank) {
  messages.comm = comm;
  messages.rank = rank;
}

int MakeRequest(Form form, MPI_Request* request) {
  constexpr int kTags = 32767;  // as many as every MPI has
  if (messages.rank < 0) return -1;
  const Pmpi& pmpi = GetPmpi();
  // A tag comes again after so many requests. Where its first one is still there, messages match in the order
  // of the starts.
  const int tag = messages.next_tag.fetch_add(1, std::memory_order_relaxed) % kTags;
  const auto make = form == Form::kPersistent ? pmpi.Recv_init : pmpi.Irecv;
  const int result = make(nullptr, 0, pmpi.char_type, messages.rank, tag, messages.comm, request);
  return result == MPI_SUCCESS ? tag : -1;
}

void CompleteRequest(int tag, bool failed) {
  const Pmpi& pmpi = GetPmpi();
  const char too_long = 0;
  pmpi.Send(&too_long, failed ? 1 : 0, pmpi.char_type, messages.rank, tag, messages.comm);
}

}  // namespace terse::intercept
