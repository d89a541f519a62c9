// SPDX-License-Identifier: Apache-2.0
//
// Run by mpirun: every rank runs every conformance case on one group of the world. The program is not
// linked to MPI: the plug-in brings it along. Arguments: the transport's name, and the plug-in that it must
// stand for.
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>

#include "tests/transport/conformance.h"
#include "transport/loader.h"

namespace terse::transport {
namespace {

Group* g_group = nullptr;

class MpiConformance : public testing::TestWithParam<ConformanceCase> {};

TEST_P(MpiConformance, Holds) { GetParam().run(*g_group); }

INSTANTIATE_TEST_SUITE_P(Mpi, MpiConformance, testing::ValuesIn(ConformanceCases()),
                         [](const auto& row) { return row.param.name; });

// Ranks but the first say nothing unless something fails.
class FailuresOnly : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed()) {
      std::printf("rank %d: %s:%d: %s\n", g_group->rank(), result.file_name(), result.line_number(),
                  result.message());
    }
  }
};

}  // namespace
}  // namespace terse::transport

int main(int argc, char** argv) {
  using terse::transport::g_group;
  testing::InitGoogleTest(&argc, argv);
  if (argc != 3 || terse::transport::ResolveTransportName(argv[1]) != argv[2]) {
    std::fprintf(stderr, "usage: %s <transport> <the plug-in that this must stand for>\n", argv[0]);
    return 2;
  }
  auto group = terse::transport::OpenGroup(argv[1], {});
  if (!group.ok()) {
    std::fprintf(stderr, "%s\n", group.status().ToString().c_str());
    return 2;
  }
  g_group = group->get();
  if (g_group->rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new terse::transport::FailuresOnly);
  }
  return RUN_ALL_TESTS();
}
