// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_EXAMPLES_COMMON_TRAFFIC_H_
#define TERSE_EXAMPLES_COMMON_TRAFFIC_H_

#include <terse/terse.hpp>

#include "examples/common/mpi_session.h"

namespace terse::examples {

// What a group has sent since it was opened and what that took, from its report. "Dense" is what the
// transport's dense ring all-reduce would have sent for the same calls.
struct Traffic {
  double bytes_sent = 0;  // all that the rank handed to its transport, headers and agreements included
  double dense_bytes = 0;
  double compressed_bytes_sent = 0;  // of the tensors that a compressor handles
  double compressed_dense_bytes = 0;
  double encode_ms = 0;
  double exchange_ms = 0;
  double decode_ms = 0;

  Traffic operator-(const Traffic& earlier) const;
  double RatioWholeModel() const;
  double RatioCompressedTensors() const;  // 1 when no tensor is compressed
};

// The mean over the ranks. Collective.
Traffic MeasureTraffic(const Group& group, const MpiSession& session);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_TRAFFIC_H_
