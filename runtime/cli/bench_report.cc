// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/bench_report.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

namespace terse::cli {
namespace {

std::string Format(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string FormatMs(double ms) { return Format(ms < 10 ? "%.3f" : "%.1f", ms); }

template <typename T>
nlohmann::ordered_json OrNull(const std::optional<T>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

struct Scaled {
  std::string number;
  const char* unit;
};

Scaled Scale(double value) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T"};
  size_t unit = 0;
  // 999.95 would be printed as 1000.0.
  while (value >= 999.95 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  std::string number = Format(unit == 0 ? "%.0f" : "%.1f", value);
  if (number.ends_with(".0")) number.resize(number.size() - 2);
  return {number, kUnits[unit]};
}

using Row = std::vector<std::string>;

std::string Align(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows[0].size());
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      // Names to the left, numbers to the right.
      line += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    out += line + "\n";
  }
  return out;
}

Row ToRow(const BenchResult& r) {
  const std::optional<double> ratio = r.ratio();
  const std::optional<double> speedup = r.speedup();
  return {r.name,
          FormatCount(static_cast<double>(r.elements)),
          r.dense_ms ? FormatMs(*r.dense_ms) : "-",
          FormatMs(r.terse_ms),
          speedup ? Format("%.2f x", *speedup) : "-",
          FormatMs(r.encode_ms),
          FormatMs(r.exchange_ms),
          FormatMs(r.decode_ms),
          FormatBytes(r.bytes_sent),
          FormatBytes(r.ring_bytes),
          ratio ? Format("%.1f x", *ratio) : "-",
          r.relative_error ? Format("%.2e", *r.relative_error) : "-"};
}

}  // namespace

std::string FormatCount(double count) {
  const Scaled scaled = Scale(count);
  return *scaled.unit == '\0' ? scaled.number : scaled.number + " " + scaled.unit;
}

std::string FormatBytes(double bytes) {
  const Scaled scaled = Scale(bytes);
  return scaled.number + " " + scaled.unit + "B";
}

std::string FormatTable(const std::vector<BenchResult>& results, const BenchOptions& options) {
  if (results.empty()) return {};
  std::vector<Row> rows = {{"case", "elements", "dense ms", "terse ms", "speed-up", "encode ms",
                            "exchange ms", "decode ms", "sent/rank", "dense ring", "ratio", "error"}};
  std::set<std::string> notes;
  for (const BenchResult& result : results) {
    rows.push_back(ToRow(result));
    const bool asked_dense = result.compressor == "none" && result.method == "allreduce";
    if (result.exchange.find("dense") != std::string::npos && !asked_dense) {
      notes.insert("note: " + result.name + ", " + FormatCount(static_cast<double>(result.elements)) +
                   " elements, went dense: " + result.reason + "\n");
    }
  }
  std::string out = "all-reduce over transport " + results[0].transport + ", " +
                    std::to_string(results[0].world_size) + " ranks; medians of " +
                    std::to_string(options.repeat) + " interleaved repetitions\n\n" + Align(rows) + "\n";
  for (const std::string& note : notes) out += note;
  out +=
      "sent/rank: bytes that a rank hands to the transport per exchange, headers included; dense ring: what\n"
      "a ring all-reduce of the fp32 gradient sends; error: largest |terse - dense| / |dense| (L2) of one\n"
      "exchange. With error feedback what is missing from one exchange is sent with the next.\n";
  return out;
}

std::string FormatJson(const std::vector<BenchResult>& results, const BenchOptions& options) {
  nlohmann::ordered_json out;
  const int32_t version = terse_version();
  out["version"] = std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
                   std::to_string(version % 100);
  out["transport"] = results.empty() ? "" : results[0].transport;
  out["world_size"] = results.empty() ? 0 : results[0].world_size;
  out["repeat"] = options.repeat;
  out["warmup"] = options.warmup;
  out["seed"] = options.seed;
  out["results"] = nlohmann::ordered_json::array();
  for (const BenchResult& r : results) {
    nlohmann::ordered_json settings = nlohmann::ordered_json::object();
    for (const Setting& setting : r.settings) settings[setting.key] = setting.value;
    out["results"].push_back({{"case", r.name},
                              {"settings", settings},
                              {"method", r.method},
                              {"compressor", r.compressor},
                              {"elements", r.elements},
                              {"codec", r.codec},
                              {"exchange", r.exchange},
                              {"reason", r.reason},
                              {"dense_ms", OrNull(r.dense_ms)},
                              {"terse_ms", r.terse_ms},
                              {"speedup", OrNull(r.speedup())},
                              {"encode_ms", r.encode_ms},
                              {"exchange_ms", r.exchange_ms},
                              {"decode_ms", r.decode_ms},
                              {"bytes_sent_per_rank", r.bytes_sent},
                              {"dense_ring_bytes", r.ring_bytes},
                              {"ratio", OrNull(r.ratio())},
                              {"relative_error", OrNull(r.relative_error)}});
  }
  return out.dump(2) + "\n";
}

}  // namespace terse::cli
