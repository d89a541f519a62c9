// SPDX-License-Identifier: Apache-2.0
//
// Times Gloo's ring all-reduce of floats over TCP. Its processes find each other through the folder BED_STORE
// and use the network interface BED_INTERFACE; BED_RANK and BED_SIZE say who they are (benchmarks/testbed).
#include <gloo/allreduce.h>
#include <gloo/barrier.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <memory>
#include <string>

#include "benchmarks/dense.h"

namespace {

const char* Environment(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr) {
    std::fprintf(stderr, "%s is not set; run this under benchmarks/testbed\n", name);
    std::exit(2);
  }
  return value;
}

template <typename T>
void Reduce(const std::shared_ptr<gloo::Context>& context, T* values, size_t n,
            void (*combine)(void*, const void*, const void*, size_t), uint32_t tag) {
  gloo::AllreduceOptions options(context);
  options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);
  options.setOutput(values, n);
  options.setReduceFunction(combine);
  options.setTag(tag);
  gloo::allreduce(options);
}

}  // namespace

int main(int argc, char** argv) {
  const terse::benchmarks::DenseArguments arguments = terse::benchmarks::ParseDenseArguments(argc, argv);
  terse::benchmarks::DenseRank rank;
  rank.rank = static_cast<int>(terse::benchmarks::ParseNumber(Environment("BED_RANK")));
  rank.size = static_cast<int>(terse::benchmarks::ParseNumber(Environment("BED_SIZE")));
  gloo::transport::tcp::attr interface;
  interface.iface = Environment("BED_INTERFACE");
  auto device = gloo::transport::tcp::CreateDevice(interface);
  gloo::rendezvous::FileStore store(Environment("BED_STORE"));
  const auto context = std::make_shared<gloo::rendezvous::Context>(rank.rank, rank.size);
  context->setTimeout(std::chrono::minutes(10));
  context->connectFullMesh(store, device);

  rank.barrier = [&context] {
    gloo::BarrierOptions options(context);
    gloo::barrier(options);
  };
  rank.sum = [&context](float* values, size_t n) { Reduce(context, values, n, &gloo::sum<float>, 1); };
  rank.slowest = [&context](double ms) {
    Reduce(context, &ms, 1, &gloo::max<double>, 2);
    return ms;
  };
  return terse::benchmarks::TimeDense(arguments, rank);
}
