// SPDX-License-Identifier: Apache-2.0
//
// The one table of configuration keys. It gives the YAML reader, the environment names, the flags of
// the `terse` command, `terse config --help` and docs/configuration.md their names, types, ranges,
// defaults and words; nothing about a key is written down twice.
//
// A value comes from, in rising precedence: the default, the YAML file, the environment
// (TERSE_<SECTION>_<KEY>), a flag. Every setting remembers which (Origin), so that a wrong one can be
// traced.
#ifndef TERSE_PROTO_WIRE_CONFIG_H_
#define TERSE_PROTO_WIRE_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/wire/plan.h"
#include "proto/wire/types.h"

namespace terse::wire {

// Where DGC's weight decay goes: into a buffer of the optimizer step, or into each rank's gradient.
enum class DecayForm : uint8_t { kBuffer, kLocal };
// How the entries of topk and dgc travel; auto: by the cost model.
enum class SparseExchange : uint8_t { kAuto, kAllGather, kSparseReduce };

// Who makes plans, and what of errors adds up to the budget (runtime/controller/policy/adaptive_policy.h).
enum class PolicyName : uint8_t { kStatic, kLgreco, kAccordion, kLgrecoAccordion, kReplay };
enum class ErrorMetric : uint8_t { kNorm, kSquaredNorm, kRelative, kAdam };
// What a plan is to make small: bytes that are sent, or the time until the last tensor of a step is there.
enum class Objective : uint8_t { kBytes, kTime };

// Everything a group is opened with. Field names follow the keys; defaults here are the defaults.
struct Config {
  Method method = Method::kAllreduce;
  Codec compressor = Codec::kQuantize;
  bool error_feedback = true;
  Reduce reduce = Reduce::kMean;
  bool dense_deterministic = false;  // key `dense`: native | deterministic
  int64_t min_elements = 4096;       // smaller tensors go dense
  std::vector<std::string> include = {"*"};
  std::vector<std::string> exclude = {"*.bias", "*norm*"};
  bool dense_when_faster = true;  // time compressed tensors both ways, use the faster

  struct TopK {
    double density = 0.01;
    IndexCoding index = IndexCoding::kRice;
    SelectionRule selection = SelectionRule::kExact;
    ValueFormat values = ValueFormat::kFp32;
    SparseExchange exchange = SparseExchange::kAuto;
    int64_t warmup_steps = 0;
    std::vector<double> warmup_density = {1.0, 0.25, 0.0625, 0.03};
    friend bool operator==(const TopK&, const TopK&) = default;
  } topk;
  struct Quantize {
    int64_t bits = 4;
    int64_t block = 512;
    Rounding rounding = Rounding::kNearest;
    QuantizeSpan span = QuantizeSpan::kMinMax;
    friend bool operator==(const Quantize&, const Quantize&) = default;
  } quantize;
  struct OneBit {
    ScaleNorm scale = ScaleNorm::kL2;
    int64_t block = 0;  // 0: one scale per tensor
    friend bool operator==(const OneBit&, const OneBit&) = default;
  } onebit;
  struct PowerSgd {
    int64_t rank = 4;
    LowRankError error = LowRankError::kLocal;
    friend bool operator==(const PowerSgd&, const PowerSgd&) = default;
  } powersgd;
  struct Dgc {
    double density = 0.001;
    double momentum = 0.9;
    bool nesterov = false;
    bool masking = true;
    double clip = 0.0;  // of the gradient's norm; 0: off
    double weight_decay = 0.0;
    DecayForm decay = DecayForm::kBuffer;
    int64_t warmup_steps = 0;
    std::vector<double> warmup_density = {0.25, 0.0625, 0.015625, 0.004};
    // Of the optimizer that the job applies to the result; not stated: it has none. Where it is, Settings
    // lets momentum and nesterov above follow it.
    std::optional<double> job_momentum;
    bool job_nesterov = false;
    friend bool operator==(const Dgc&, const Dgc&) = default;
  } dgc;
  struct Adam {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-8;
    double weight_decay = 0.0;
    bool bias_correction = false;
    static constexpr int64_t kAuto = -1;
    int64_t freeze = kAuto;  // steps of exact Adam before the variance is frozen
    int64_t lr_warmup_steps = 0;
    double variance_floor = 0.01;
    friend bool operator==(const Adam&, const Adam&) = default;
  } adam;
  struct Policy {
    PolicyName name = PolicyName::kStatic;
    int64_t interval = 100;             // steps between two decisions
    int64_t window = 10;                // steps before a decision in which errors are measured
    std::vector<std::string> families;  // codecs beside `compressor`
    ErrorMetric error = ErrorMetric::kNorm;
    double alpha = 1.0;
    double gain = 0.02;
    Objective objective = Objective::kBytes;
    std::string history;  // replay: a file of plans
    std::string record;   // rank 0 writes its plans there; empty: nowhere
    friend bool operator==(const Policy&, const Policy&) = default;
  } policy;
  struct Network {
    double gbit = 1.0;         // of a rank's link, one way
    double latency_us = 50.0;  // of a message
    friend bool operator==(const Network&, const Network&) = default;
  } network;
  struct Transport {
    std::string name = "mpi";     // mpi | mpi_openmpi | mpi_mpich | inproc
    int64_t timeout_s = 60;       // a peer that gives no sign of life for so long is lost
    std::string hub = "default";  // inproc: groups of one process that share this name meet
    friend bool operator==(const Transport&, const Transport&) = default;
  } transport;
  struct Controller {
    std::string address;     // host:port of a terse-controller; empty: embedded in rank 0
    std::string token_file;  // its bearer token
    std::string job;         // what the job is called there; empty: as its program
    friend bool operator==(const Controller&, const Controller&) = default;
  } controller;
  struct Tls {
    std::string ca;  // of those that are spoken to; empty: no TLS
    std::string cert;
    std::string key;
    friend bool operator==(const Tls&, const Tls&) = default;
  } tls;
  int64_t rank = -1;  // for launchers that are not MPI; -1: from the transport
  int64_t world_size = -1;
  int64_t seed = 0;
  int64_t threads = 1;   // of kernels, per rank
  std::string trace;     // folder for a trace of each rank (rank-N.json); empty: none
  bool disable = false;  // TERSE_DISABLE=1: every call is the transport's dense all-reduce

  friend bool operator==(const Config&, const Config&) = default;
};

enum class Origin : uint8_t { kDefault, kFile, kEnvironment, kFlag };
std::string_view Name(Origin origin);

// One row of the table.
struct ConfigKey {
  std::string_view path;     // "topk.density"
  std::string_view type;     // "number", "integer", "boolean", "choice", "text", "list of numbers", ...
  std::string_view allowed;  // "0 < x <= 1", "none | fp16 | ...": words for people and for errors
  std::string_view help;     // one line
  // Parses and checks `text` and stores it; INVALID_ARGUMENT says what is allowed.
  absl::Status (*set)(std::string_view text, Config* config);
  std::string (*get)(const Config& config);  // canonical text; set(get()) is the identity
  bool agreed;  // must be equal on all ranks (rank and transport.timeout_s need not be)
};

// All rows, in the order of docs/configuration.md.
absl::Span<const ConfigKey> ConfigKeys();

// The row for `path`, or nullptr.
const ConfigKey* FindConfigKey(std::string_view path);

// "topk.density" -> "TERSE_TOPK_DENSITY".
std::string EnvironmentName(std::string_view path);

// A configuration and where each of its values came from (one Origin per row of the table).
class Settings {
 public:
  Settings();

  // INVALID_ARGUMENT names the key, the value, what is allowed, and for an unknown key the nearest
  // known one. A refused value changes nothing; nor does one whose origin ranks below the present
  // value's, but it is checked all the same.
  absl::Status Set(std::string_view path, std::string_view text, Origin origin);

  // Takes every variable of `environment` ("NAME=value") that begins with TERSE_. A name that is
  // neither a key's nor one of OtherEnvironment() is an error: a misspelt setting must not be silence.
  // An error changes nothing.
  absl::Status SetFromEnvironment(absl::Span<const std::string> environment);

  // Checks that involve several keys (rank needs world_size, ...).
  absl::Status Validate() const;

  const Config& config() const { return config_; }
  Origin origin(std::string_view path) const;

  // "key = value  # origin" lines, in the table's order.
  std::string Show() const;

 private:
  // dgc.momentum and dgc.nesterov, where nobody set them, are the job's.
  void FollowTheJob();

  Config config_;
  std::vector<Origin> origins_;
};

// Variables with our prefix that are not settings: TERSE_CONFIG (path of the YAML file), TERSE_LOG,
// TERSE_SIMD, TERSE_PLUGIN_PATH, TERSE_REPORT, TERSE_PRELOAD,
// TERSE_PROGRESS_THREAD, TERSE_DOUBLES, TERSE_HANG_AFTER_S.
absl::Span<const std::string_view> OtherEnvironment();

// Canonical text of all `agreed` keys, one "key = value" a line: what ranks compare at open. The first
// line that differs names the difference.
std::string AgreedText(const Config& config);

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_CONFIG_H_
