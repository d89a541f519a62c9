// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/cost_model.h"

#include <algorithm>
#include <cmath>

#include "proto/wire/frame.h"
#include "proto/wire/messages.h"

namespace terse::policy {
namespace {

constexpr double kFrame = static_cast<double>(wire::kFrameHeaderBytes);
constexpr double kEntriesHeader = 8;  // of a payload of entries
constexpr double kSamplesPayload = 32 * 4;
constexpr double kPiece = static_cast<double>(wire::kPieceBytes);
constexpr double kStretch = static_cast<double>(wire::kStretchBytes);
constexpr double kMostStretches = static_cast<double>(wire::kMostStretches);
constexpr double kToldBelow = 0.2;      // of the density: denser vectors are searched as a whole
constexpr double kTold = 0.88;          // of a stretch's entries, before the whole tensor has been looked at
constexpr double kLoad = 8;             // in front of an owner's sums
constexpr double kSparseBound = 6 * 4;  // bytes of an entry that sparse reduce may send, times (N - 1) / N

constexpr double kAccumulate = 0.88;  // of a memcpy: the dense sum of what a rank receives

double CopySeconds(const Machine& machine, const Workload& load) {
  return 4 * load.elements / machine.memcpy_bytes_per_s;
}

// log2 by the exponent and a line between powers of 2: within 0.09, and the same everywhere.
double Log2(double x) {
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);
  return exponent - 1 + (2 * mantissa - 1);
}

}  // namespace

Entries EntriesOf(const wire::CodecParams& params) {
  // Rice-coded gaps of random positions: their entropy, log2(e / density), and a little.
  const double position =
      params.index == wire::IndexCoding::kU32 ? 4.0 : std::min(4.0, (Log2(1 / params.density) + 1.5) / 8);
  const double value = params.values == wire::ValueFormat::kFp32 ? 4.0 : 2.0;
  return {.density = params.density, .bytes = position + value, .sum_bytes = position + 4.0};
}

Cost DenseCost(const Machine& machine, const Workload& load) {
  const double share = (load.ranks - 1) / load.ranks;
  Cost cost;
  cost.bytes = 2 * share * 4 * load.elements;
  const double messages = 2 * std::ceil(Log2(load.ranks));
  cost.seconds = messages * (machine.latency_s + machine.message_s) + cost.bytes / machine.bytes_per_s +
                 kAccumulate * share * CopySeconds(machine, load);
  return cost;
}

Cost AllGatherCost(const Machine& machine, const Workload& load, const Kernels& kernels,
                   const Entries& entries) {
  const double peers = load.ranks - 1;
  const double k = entries.density * load.elements;
  // Of dense selections nothing is told early.
  const double stretches = entries.density < kToldBelow
                               ? std::min(std::floor(k * entries.bytes / kStretch) + 1, kMostStretches)
                               : 1;
  Cost cost;
  cost.overhead = peers * (stretches > 1 ? stretches + 1 : 1) * (kFrame + kEntriesHeader);
  cost.bytes = peers * k * entries.bytes + cost.overhead;
  // What is told early is on the wire while the rest is looked at, from the end of the first stretch on.
  const double told = kTold * (stretches - 1) / stretches;
  const double wire = cost.bytes / machine.bytes_per_s;
  const double copy = CopySeconds(machine, load);
  // Own entries are read once more, for what is remembered of them.
  const double encode = kernels.encode * copy + k * machine.entry_s;
  const double decode = kernels.decode * copy + load.ranks * k * machine.entry_s;
  const double processor = peers * stretches * machine.message_s;
  cost.seconds = machine.latency_s + std::max(encode + processor, encode / stretches + told * wire) +
                 (1 - told) * wire + decode;
  return cost;
}

Cost SparseReduceCost(const Machine& machine, const Workload& load, const Kernels& kernels,
                      const Entries& entries) {
  const double peers = load.ranks - 1;
  const double k = entries.density * load.elements;
  Cost cost;
  const double share = peers / load.ranks;
  cost.overhead = peers * (3 * kFrame + 2 * kEntriesHeader + kSamplesPayload + kLoad);
  // The owners' sums, if no two ranks selected the same position, as far as the bound allows.
  const double sent = share * k * entries.bytes;
  const double sums = std::min(peers * k * entries.sum_bytes, share * k * kSparseBound - sent);
  cost.bytes = sent + sums + cost.overhead;
  // Entries are taken apart, packed, received, numbered and added up; sums packed, received and compared.
  const double delivered = sums / share / entries.sum_bytes;
  // In each of the three rounds a rank has one message for every other.
  cost.seconds = 3 * (machine.latency_s + peers * machine.message_s) + cost.bytes / machine.bytes_per_s +
                 ((kernels.encode + kernels.decode) * CopySeconds(machine, load) +
                  (4 * k + 2 * delivered) * machine.entry_s);
  return cost;
}

Cost ScatterReduceCost(const Machine& machine, const Workload& load, const Kernels& kernels, double bits) {
  const double peers = load.ranks - 1;
  const double shard = load.elements * bits / 8 / load.ranks;
  const double messages = peers * std::ceil(shard / kPiece);  // in each of the two rounds
  Cost cost;
  cost.overhead = 2 * messages * kFrame;
  cost.bytes = 2 * peers * shard + cost.overhead;
  // In each round the wire and the processor are busy at the same time. The own shard is summed over all
  // ranks, which is a whole tensor's decoding, and encoded again.
  const double wire = cost.bytes / 2 / machine.bytes_per_s;
  const double processor = messages * machine.message_s;
  const double copy = CopySeconds(machine, load);
  cost.seconds = 2 * machine.latency_s + std::max(wire, processor + kernels.encode * copy) +
                 std::max(wire, processor + (kernels.encode / load.ranks + 2 * kernels.decode) * copy);
  return cost;
}

Cost LowRankCost(const Machine& machine, const Workload& load, const Kernels& kernels, double rank) {
  // P and Q, one after the other, as dense sums.
  const Workload factor{.elements = rank * std::sqrt(load.elements), .ranks = load.ranks};
  Cost cost = DenseCost(machine, factor);
  cost.bytes *= 2;
  cost.seconds = 2 * cost.seconds + (kernels.encode + kernels.decode) * CopySeconds(machine, load);
  return cost;
}

}  // namespace terse::policy
