// SPDX-License-Identifier: Apache-2.0
#include "examples/common/traffic.h"

#include <nlohmann/json.hpp>
#include <vector>

namespace terse::examples {

Traffic Traffic::operator-(const Traffic& earlier) const {
  return {bytes_sent - earlier.bytes_sent,
          dense_bytes - earlier.dense_bytes,
          compressed_bytes_sent - earlier.compressed_bytes_sent,
          compressed_dense_bytes - earlier.compressed_dense_bytes,
          encode_ms - earlier.encode_ms,
          exchange_ms - earlier.exchange_ms,
          decode_ms - earlier.decode_ms};
}

double Traffic::RatioWholeModel() const { return bytes_sent > 0 ? dense_bytes / bytes_sent : 1.0; }

double Traffic::RatioCompressedTensors() const {
  return compressed_bytes_sent > 0 ? compressed_dense_bytes / compressed_bytes_sent : 1.0;
}

Traffic MeasureTraffic(const Group& group, const MpiSession& session) {
  const nlohmann::json report = nlohmann::json::parse(group.Report());
  const nlohmann::json& compressed = report.at("compressed_tensors");
  std::vector<double> values = {report.at("wire_bytes"),     report.at("dense_bytes"),
                                compressed.at("bytes_sent"), compressed.at("dense_bytes"),
                                report.at("encode_ms"),      report.at("exchange_ms"),
                                report.at("decode_ms")};
  session.Average(&values);
  return {values[0], values[1], values[2], values[3], values[4], values[5], values[6]};
}

}  // namespace terse::examples
