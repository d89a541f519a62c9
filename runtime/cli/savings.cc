// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/savings.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace terse::cli {
namespace {

double Number(const std::vector<ConfigLine>& config, const char* key) {
  return std::stod(FindLine(config, key).value);
}

// Bytes of one payload of `count` floats.
double PayloadBytes(const std::vector<ConfigLine>& config, const std::string& compressor, double count) {
  if (compressor == "fp16" || compressor == "bf16") return 2 * count;
  if (compressor == "onebit") return count / 8;
  if (compressor == "quantize") {
    return count * Number(config, "quantize.bits") / 8 +
           4 * std::ceil(count / Number(config, "quantize.block"));
  }
  if (compressor == "topk") {
    const double density = Number(config, "topk.density");
    // Rice coding of a gap takes log2(e / density) bits, at most half a bit more.
    const double index =
        FindLine(config, "topk.index").value == "u32" ? 4 : (std::log2(M_E / density) + 0.5) / 8;
    const double value = FindLine(config, "topk.values").value == "fp32" ? 4 : 2;
    return std::ceil(density * count) * (value + index);
  }
  // Two factors of a matrix that is as square as can be.
  if (compressor == "powersgd")
    return std::min(4 * count, 8 * Number(config, "powersgd.rank") * std::sqrt(count));
  return 4 * count;
}

double Milliseconds(const Network& network, double bytes, double messages) {
  return bytes * 8 / (network.gbit * 1e6) + messages * network.latency_us / 1e3;
}

}  // namespace

Saving Estimate(const std::vector<ConfigLine>& config, const Network& network, int64_t count, int64_t ranks) {
  const auto n = static_cast<double>(ranks);
  const double share = 2 * (n - 1) / n;  // of a vector that a rank sends in a ring
  const std::string compressor = FindLine(config, "compressor").value;
  const double payload = PayloadBytes(config, compressor, static_cast<double>(count));
  Saving saving;
  saving.dense_bytes = share * 4 * static_cast<double>(count);
  saving.dense_ms = Milliseconds(network, saving.dense_bytes, 2 * (n - 1));
  if (compressor == "topk") {  // every rank gets every payload
    saving.terse_bytes = (n - 1) * payload;
    saving.terse_ms = Milliseconds(network, saving.terse_bytes, n - 1);
  } else {
    saving.terse_bytes = share * payload;
    saving.terse_ms = Milliseconds(network, saving.terse_bytes, (compressor == "powersgd" ? 4 : 2) * (n - 1));
  }
  return saving;
}

}  // namespace terse::cli
