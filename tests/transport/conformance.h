// SPDX-License-Identifier: Apache-2.0
//
// What every transport must do, as cases that each rank of a group runs. A new transport gets them all
// by running each case on a group of its own making.
#ifndef TERSE_TESTS_TRANSPORT_CONFORMANCE_H_
#define TERSE_TESTS_TRANSPORT_CONFORMANCE_H_

#include <string>
#include <vector>

#include "transport/transport.h"

namespace terse::transport {

struct ConformanceCase {
  std::string name;
  // Called by all ranks at once. Reports by GoogleTest's expectations, from any thread.
  void (*run)(Group& group);
};

const std::vector<ConformanceCase>& ConformanceCases();

}  // namespace terse::transport

#endif  // TERSE_TESTS_TRANSPORT_CONFORMANCE_H_
