// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/policy/calibration.h"

#include <algorithm>
#include <limits>

#include "proto/wire/matrix_view.h"

namespace terse::policy {
namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();

// A machine on which one thing takes time, and the others none.
constexpr Machine kNothing = {
    .bytes_per_s = kForever, .latency_s = 0, .message_s = 0, .memcpy_bytes_per_s = kForever, .entry_s = 0};

Machine OnlyLatency() {
  Machine machine = kNothing;
  machine.latency_s = 1;
  return machine;
}
Machine OnlyWire() {
  Machine machine = kNothing;
  machine.bytes_per_s = 1;
  return machine;
}
Machine OnlyProcessor(const Machine& like) {
  Machine machine = like;
  machine.bytes_per_s = kForever;
  machine.latency_s = 0;
  return machine;
}

Kernels KernelsOf(wire::Codec codec) {
  switch (codec) {
    case wire::Codec::kOneBit:
      return kOneBitKernels;
    case wire::Codec::kPowerSgd:
      return kPowerSgdKernels;
    case wire::Codec::kTopK:
      return kTopKKernels;
    default:
      return kQuantize4Kernels;
  }
}

// Bits of an element in scatter-reduce.
double BitsOf(const wire::PlanRow& row) {
  switch (row.codec) {
    case wire::Codec::kQuantize:
      // Minimum and unit, or the unit alone, are 16 bits each.
      return row.params.bits +
             (row.params.span == wire::QuantizeSpan::kMinMax ? 32.0 : 16.0) / row.params.block;
    case wire::Codec::kOneBit:
      return 1 + (row.params.block == 0 ? 0.0 : 32.0 / row.params.block);
    default:
      return 16;
  }
}

}  // namespace

Cost CostOf(const wire::PlanRow& row, const Machine& machine, int world_size, const TensorInfo& tensor) {
  const Workload load{.elements = static_cast<double>(tensor.elements),
                      .ranks = static_cast<double>(world_size)};
  const Kernels kernels = KernelsOf(row.codec);
  switch (row.exchange) {
    case wire::Exchange::kAllGather:
      return AllGatherCost(machine, load, kernels, EntriesOf(row.params));
    case wire::Exchange::kSparseReduce:
      return SparseReduceCost(machine, load, kernels, EntriesOf(row.params));
    case wire::Exchange::kLowRank: {
      // Both factors, one after the other, of the matrix as it is.
      const auto floats = static_cast<double>(wire::ViewAsMatrix(tensor.shape).FactorFloats(row.params.rank));
      Cost cost = DenseCost(machine, {.elements = floats, .ranks = load.ranks});
      cost.seconds += DenseCost(machine, {.elements = 0, .ranks = load.ranks}).seconds +
                      (kernels.encode + kernels.decode) * 4 * load.elements / machine.memcpy_bytes_per_s;
      return cost;
    }
    case wire::Exchange::kScatterReduceAllGather:
      return ScatterReduceCost(machine, load, kernels, BitsOf(row));
    default:
      return DenseCost(machine, load);
  }
}

Machine Calibrated(const wire::Config& config, int world_size, absl::Span<const TensorInfo> tensors,
                   absl::Span<const wire::PlanRow> rows, absl::Span<const ExchangeTimes> times) {
  Machine machine;
  machine.bytes_per_s = config.network.gbit * 1e9 / 8;
  machine.latency_s = config.network.latency_us * 1e-6;

  // wire = latency * rounds + bytes / rate. Sums of least squares, weighted by 1 / wire^2, so that the small
  // ones count for as much as the large.
  double rr = 0;
  double rb = 0;
  double bb = 0;
  double rt = 0;
  double bt = 0;
  double codec_s = 0;
  double modelled_s = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (times[t].wire_ms > 0) {
      const double seconds = times[t].wire_ms * 1e-3;
      const double rounds = CostOf(rows[t], OnlyLatency(), world_size, tensors[t]).seconds / seconds;
      const double bytes = CostOf(rows[t], OnlyWire(), world_size, tensors[t]).seconds / seconds;
      rr += rounds * rounds;
      rb += rounds * bytes;
      bb += bytes * bytes;
      rt += rounds;
      bt += bytes;
    }
    if (times[t].codec_ms > 0) {
      codec_s += times[t].codec_ms * 1e-3;
      modelled_s += CostOf(rows[t], OnlyProcessor(machine), world_size, tensors[t]).seconds;
    }
  }
  const double determinant = rr * bb - rb * rb;
  constexpr double kApart = 1e-3;  // how far from proportional rounds and bytes must be
  if (bb > 0) {
    double latency = machine.latency_s;
    double per_byte = 0;
    if (determinant > kApart * rr * bb) {
      latency = (rt * bb - bt * rb) / determinant;
      per_byte = (bt * rr - rt * rb) / determinant;
    }
    // No latency below nothing, and no rate beyond any: the other one alone, then.
    if (per_byte <= 0 || latency < 0) {
      latency = latency < 0 ? 0 : std::min(machine.latency_s, rr > 0 ? rt / rr : machine.latency_s);
      per_byte = std::max((bt - latency * rb) / bb, 0.0);
    }
    machine.latency_s = latency;
    if (per_byte > 0) machine.bytes_per_s = 1 / per_byte;
  }
  if (modelled_s > 0) {
    const double factor = std::clamp(codec_s / modelled_s, 0.02, 50.0);
    machine.memcpy_bytes_per_s /= factor;
    machine.entry_s *= factor;
    machine.message_s *= factor;
  }
  return machine;
}

}  // namespace terse::policy
