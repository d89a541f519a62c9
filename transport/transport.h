// SPDX-License-Identifier: Apache-2.0
//
// The contract of a transport: it moves bytes between the ranks of a group and knows nothing of
// gradients. Implementations: inproc (threads of one process, compiled in) and plug-ins
// (libterse_transport_<name>.so) that export TERSE_TRANSPORT_ENTRY.
//
// Threads: one thread at a time uses a Group. Unless Capabilities::any_thread is set, all calls come
// from the thread that the transport's library allows (below MPI_THREAD_MULTIPLE: the job's own), and
// nothing progresses between calls.
//
// Waiting: nothing blocks without a bound. Operation::Wait takes `patience`, the longest time to go on
// without a sign of life from a peer that it waits for: a message that arrives restarts it, so a
// straggler is not taken for a corpse. A peer known to be gone ends the wait at once. After a wait ended
// in UNAVAILABLE or DEADLINE_EXCEEDED the group is broken: every later call returns that status, and
// destroying the group does not wait.
//
// Errors: UNAVAILABLE names the lost rank; DEADLINE_EXCEEDED the ranks that did not come;
// INVALID_ARGUMENT a wrong call; DATA_LOSS a message longer than the receive's capacity.
//
// Neither exceptions nor RTTI cross this interface. A plug-in uses no symbol of libterse.
#ifndef TERSE_TRANSPORT_TRANSPORT_H_
#define TERSE_TRANSPORT_TRANSPORT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/types.h"

namespace terse::transport {

// Raised when anything in this header changes shape; loader and plug-in must agree.
inline constexpr uint32_t kTransportAbi = 2;

enum class Memory : uint8_t { kHost = 0, kDevice = 1 };

// Work on device memory is ordered on a stream (a cudaStream_t); host memory ignores it.
struct Stream {
  void* handle = nullptr;
};

// Memory that an operation reads or writes. It stays the caller's and must live, untouched (written
// buffers: unread), until the operation has ended.
struct ConstBuffer {
  const void* data = nullptr;
  size_t bytes = 0;
  Memory memory = Memory::kHost;
};
struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;  // capacity
  Memory memory = Memory::kHost;
};

// A started operation. Destroying one that has not ended abandons it: the transport must not touch its
// buffers afterwards, and the group is broken.
class Operation {
 public:
  virtual ~Operation() = default;

  // True once the operation has ended. Makes progress.
  virtual absl::StatusOr<bool> Test() = 0;

  // Returns when the operation has ended, or with the reason why it cannot (file comment).
  virtual absl::Status Wait(std::chrono::milliseconds patience) = 0;
};
using OperationOr = absl::StatusOr<std::unique_ptr<Operation>>;

struct Capabilities {
  bool device_memory = false;  // Memory::kDevice buffers with streams
  bool elastic = false;        // Shrink works
  bool any_thread = false;     // calls may come from any one thread at a time
};

// A group of ranks. Collectives are called by all ranks in the same order.
class Group {
 public:
  virtual ~Group() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Number of the membership: 0 at open, larger after every change.
  virtual uint32_t generation() const = 0;
  virtual Capabilities capabilities() const = 0;

  // nodes()[r] is equal for ranks that share a machine; numbered from 0 in order of first rank.
  virtual absl::Span<const int> nodes() const = 0;

  // For messages: "rank 2 (pid 4711 on host b)".
  virtual std::string Describe(int rank) const = 0;

  // Point to point. Messages between two ranks with equal tags arrive in order. Tags: 0 <= tag < 2^15.
  // Receive's *length gets the message's size when the operation ends.
  virtual OperationOr Send(int peer, int tag, ConstBuffer from, Stream stream) = 0;
  virtual OperationOr Receive(int peer, int tag, Buffer to, size_t* length, Stream stream) = 0;

  // The same with every other rank, as one operation: from[r] goes to rank r, to[r] gets what rank r sent
  // under the tag. Slot rank() is left alone. No collectives: the ranks need not call them in one order.
  virtual OperationOr SendToOthers(int tag, absl::Span<const ConstBuffer> from, Stream stream) = 0;
  virtual OperationOr ReceiveFromOthers(int tag, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                        Stream stream) = 0;

  // Sum over all ranks by the transport's own best algorithm; the order of summation is its own, but all
  // ranks get the same bits. in == out is allowed, on each rank for itself. kFloat16 and kBFloat16 may be
  // UNIMPLEMENTED.
  virtual OperationOr Allreduce(const void* in, void* out, size_t count, wire::DType dtype,
                                Stream stream) = 0;

  // Every rank gets every rank's `own` bytes: to[r] is where rank r's go (its capacity in to[r].bytes;
  // to[rank()] is filled too), lengths[r] how many came. Lengths may differ between ranks and need not
  // be known beforehand.
  virtual OperationOr Allgatherv(ConstBuffer own, absl::Span<const Buffer> to, absl::Span<size_t> lengths,
                                 Stream stream) = 0;

  // from[r] goes to rank r; what rank r sent comes to to[r]. Slot rank() is copied locally.
  virtual OperationOr Alltoallv(absl::Span<const ConstBuffer> from, absl::Span<const Buffer> to,
                                absl::Span<size_t> lengths, Stream stream) = 0;

  virtual OperationOr Broadcast(Buffer inout, int root, Stream stream) = 0;
  virtual OperationOr Barrier() = 0;

  // Bytes handed to the wire by this rank since open. Own messages count as sent (headers included;
  // copies to oneself do not count); a native Allreduce counts as the ring's 2(N-1)/N of its buffer,
  // the least that any algorithm sends.
  virtual uint64_t bytes_sent() const = 0;

  // A new group of the ranks that are left (`survivors` of the old numbering, ascending), of a later
  // generation. UNIMPLEMENTED unless Capabilities::elastic.
  virtual absl::StatusOr<std::unique_ptr<Group>> Shrink(absl::Span<const int> survivors) = 0;
};

struct OpenOptions {
  int rank = -1;  // -1: from the transport's environment
  int world_size = -1;
  std::string hub;                           // inproc: groups of one process with equal names meet
  std::chrono::milliseconds timeout{60000};  // for opening; patience of waits inside Open
  // mpi: Fortran handle of the communicator to use (duplicated, never used itself); unset: the world.
  bool has_communicator = false;
  int64_t communicator = 0;
};

// What a plug-in exports: extern "C" const PluginDescriptor* terse_transport_plugin().
struct PluginDescriptor {
  uint32_t abi = kTransportAbi;
  const char* name = "";      // "mpi_openmpi"
  const char* build_id = "";  // project version, compiler and library it was built against
  // Collective over the group's ranks. `error` gets the reason when the result is null.
  Group* (*open)(const OpenOptions* options, absl::Status* error) = nullptr;
};
using PluginEntry = const PluginDescriptor* (*)();
inline constexpr char kPluginEntryName[] = "terse_transport_plugin";

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_TRANSPORT_H_
