// SPDX-License-Identifier: Apache-2.0
//
// What compression would save of the traffic that a preload library has seen: bytes by the format of the
// configured compressor, times by a formula that docs/cli.md states. Encoding and decoding take time, too,
// which is not in it: the times are those of the network alone.
#ifndef TERSE_RUNTIME_CLI_SAVINGS_H_
#define TERSE_RUNTIME_CLI_SAVINGS_H_

#include <cstdint>
#include <vector>

#include "runtime/cli/settings.h"

namespace terse::cli {

struct Network {
  double gbit = 0;
  double latency_us = 0;
};

// One all-reduce of `count` floats among `ranks` ranks.
struct Saving {
  double dense_bytes = 0;  // sent by a rank
  double terse_bytes = 0;
  double dense_ms = 0;
  double terse_ms = 0;
};
Saving Estimate(const std::vector<ConfigLine>& config, const Network& network, int64_t count, int64_t ranks);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_SAVINGS_H_
