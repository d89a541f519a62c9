// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/config.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/wire/config_values.h"

namespace terse::wire {
namespace {

constexpr std::string_view kPrefix = "TERSE_";
constexpr std::string_view kOtherEnvironment[] = {
    "TERSE_CONFIG",          "TERSE_LOG",     "TERSE_SIMD",
    "TERSE_PLUGIN_PATH",     "TERSE_REPORT",  "TERSE_PRELOAD",
    "TERSE_PROGRESS_THREAD", "TERSE_DOUBLES", "TERSE_HANG_AFTER_S"};

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status ValidatePolicy(const Config& c) {
  for (const std::string& family : c.policy.families) {
    const std::optional<Codec> codec = ParseCodec(family);
    if (codec.has_value() && *codec != Codec::kNone) continue;
    return Invalid("policy.families names ", Quoted(family),
                   ", which is no codec: fp16, bf16, topk, onebit, quantize and powersgd are");
  }
  if ((c.policy.name == PolicyName::kReplay) == c.policy.history.empty()) {
    return c.policy.history.empty()
               ? Invalid("policy.name: replay needs policy.history, the file of plans to repeat")
               : Invalid("policy.history is for policy.name: replay, which is not asked for");
  }
  if (c.controller.address.empty()) {
    if (!c.controller.token_file.empty() || !c.controller.job.empty()) {
      return Invalid("controller.", c.controller.job.empty() ? "token_file" : "job",
                     " is for a controller, and controller.address names none");
    }
  } else if (c.policy.name == PolicyName::kReplay) {
    return Invalid("policy.name: replay repeats the plans of a file: leave controller.address out");
  }
  if (c.tls.cert.empty() != c.tls.key.empty()) return Invalid("tls.cert and tls.key go together");
  if (!c.tls.cert.empty() && c.tls.ca.empty())
    return Invalid("tls.cert needs tls.ca, the other side's authority");
  if (c.policy.name == PolicyName::kStatic) return absl::OkStatus();
  if (c.method != Method::kAllreduce) {
    return Invalid("a policy that decides while the job trains goes with method: allreduce; method: ",
                   View(Name(c.method)), " has one codec and one setting: leave policy.name out");
  }
  if (c.policy.window > c.policy.interval && c.policy.name != PolicyName::kReplay) {
    return Invalid("policy.window = ", c.policy.window, " is above policy.interval = ", c.policy.interval);
  }
  return absl::OkStatus();
}

absl::Status ValidateQuantize(const Config& config) {
  const Config::Quantize& q = config.quantize;
  if (q.bits == 1 && q.span != QuantizeSpan::kMinMax) {
    return Invalid(
        "quantize.bits = 1 does not go with quantize.span max or l2: one bit is for the sign; use 2 to 8");
  }
  CodecParams params;
  params.bits = static_cast<uint32_t>(q.bits);
  params.block = static_cast<uint32_t>(q.block);
  params.rounding = q.rounding;
  params.span = q.span;
  if (!config.error_feedback || QuantizeErrorGain(params) <= 1.0) return absl::OkStatus();
  return Invalid("quantize.bits = ", q.bits, " with ",
                 q.rounding == Rounding::kNearest ? "nearest" : "stochastic", " rounding",
                 q.span == QuantizeSpan::kL2 ? absl::StrCat(" over the norm of ", q.block, " elements") : "",
                 " may leave behind ", absl::StrFormat("%.1f", QuantizeErrorGain(params)),
                 " times what it encodes, which error feedback would let grow without end; use more bits",
                 q.span == QuantizeSpan::kL2 ? ", a smaller quantize.block, quantize.span: max" : "",
                 q.rounding == Rounding::kNearest ? "" : ", quantize.rounding: nearest",
                 ", or error_feedback: false");
}

// What only a group of method dgc minds.
absl::Status ValidateDgc(const Config::Dgc& dgc) {
  if (!dgc.job_momentum.has_value()) {
    if (!dgc.job_nesterov) return absl::OkStatus();
    return Invalid("dgc.job_nesterov: true needs dgc.job_momentum, the momentum of the job's optimizer");
  }
  if (dgc.momentum != *dgc.job_momentum) {
    return Invalid("dgc.momentum = ", NumberText(dgc.momentum),
                   " and dgc.job_momentum = ", NumberText(*dgc.job_momentum),
                   " differ: the one takes the place of the other; leave dgc.momentum out");
  }
  if (dgc.nesterov != dgc.job_nesterov) {
    return Invalid("dgc.nesterov = ", BooleanText(dgc.nesterov),
                   " and dgc.job_nesterov = ", BooleanText(dgc.job_nesterov),
                   " differ: the one takes the place of the other; leave dgc.nesterov out");
  }
  if (dgc.weight_decay != 0) {
    return Invalid(
        "dgc.weight_decay is applied by terse_optimizer_step, and with dgc.job_momentum the job's "
        "own optimizer takes the step; leave it out, and decay there");
  }
  return absl::OkStatus();
}

std::string_view NearestPath(std::string_view path) {
  std::vector<std::string_view> paths;
  for (const ConfigKey& key : ConfigKeys()) paths.push_back(key.path);
  return Nearest(path, paths);
}

std::string NearestEnvironmentName(std::string_view name) {
  std::vector<std::string> names(std::begin(kOtherEnvironment), std::end(kOtherEnvironment));
  for (const ConfigKey& key : ConfigKeys()) names.push_back(EnvironmentName(key.path));
  return std::string(Nearest(name, std::vector<std::string_view>(names.begin(), names.end())));
}

const ConfigKey* FindByEnvironmentName(std::string_view name) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (EnvironmentName(key.path) == name) return &key;
  }
  return nullptr;
}

}  // namespace

std::string_view Name(Origin origin) {
  switch (origin) {
    case Origin::kDefault:
      return "default";
    case Origin::kFile:
      return "file";
    case Origin::kEnvironment:
      return "environment";
    case Origin::kFlag:
      return "flag";
  }
  return "unknown";
}

const ConfigKey* FindConfigKey(std::string_view path) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.path == path) return &key;
  }
  return nullptr;
}

std::string EnvironmentName(std::string_view path) {
  std::string name(kPrefix);
  for (const char c : path) name += c == '.' ? '_' : absl::ascii_toupper(static_cast<unsigned char>(c));
  return name;
}

absl::Span<const std::string_view> OtherEnvironment() { return kOtherEnvironment; }

Settings::Settings() : origins_(ConfigKeys().size(), Origin::kDefault) {}

absl::Status Settings::Set(std::string_view path, std::string_view text, Origin origin) {
  const ConfigKey* const key = FindConfigKey(path);
  if (key == nullptr) {
    return Invalid("unknown key ", Quoted(path), "; did you mean \"", View(NearestPath(path)), "\"?");
  }
  Config next = config_;
  const absl::Status status = key->set(text, &next);
  if (!status.ok()) return Invalid(View(path), ": ", Quoted(text), " is not allowed; it ", status.message());
  Origin& current = origins_[static_cast<size_t>(key - ConfigKeys().data())];
  if (origin < current) return absl::OkStatus();
  config_ = std::move(next);
  current = origin;
  FollowTheJob();
  return absl::OkStatus();
}

void Settings::FollowTheJob() {
  Config::Dgc& dgc = config_.dgc;
  if (origin("dgc.momentum") == Origin::kDefault) {
    dgc.momentum = dgc.job_momentum.value_or(Config::Dgc().momentum);
  }
  if (origin("dgc.nesterov") == Origin::kDefault) {
    dgc.nesterov = dgc.job_momentum.has_value() && dgc.job_nesterov;
  }
}

absl::Status Settings::SetFromEnvironment(absl::Span<const std::string> environment) {
  Settings next = *this;
  std::set<std::string_view> seen;
  for (const std::string_view variable : environment) {
    if (variable.substr(0, kPrefix.size()) != kPrefix) continue;
    const size_t equals = variable.find('=');
    const std::string_view name = variable.substr(0, equals);
    const auto others = OtherEnvironment();
    if (std::find(others.begin(), others.end(), name) != others.end()) continue;
    const ConfigKey* const key = FindByEnvironmentName(name);
    if (key == nullptr) {
      return Invalid("unknown environment variable ", Quoted(name), "; did you mean \"",
                     NearestEnvironmentName(name), "\"?");
    }
    if (equals == std::string_view::npos)
      return Invalid("environment variable ", View(name), " has no value");
    if (!seen.insert(name).second) return Invalid("environment variable ", View(name), " is there twice");
    const absl::Status status = next.Set(key->path, variable.substr(equals + 1), Origin::kEnvironment);
    if (!status.ok()) return Invalid("environment variable ", View(name), ": ", status.message());
  }
  *this = std::move(next);
  return absl::OkStatus();
}

absl::Status Settings::Validate() const {
  const Config& c = config_;
  if (c.rank >= 0 && c.world_size < 0) return Invalid("rank = ", c.rank, " needs world_size to be set too");
  if (c.rank >= 0 && c.rank >= c.world_size) {
    return Invalid("rank = ", c.rank, " is not below world_size = ", c.world_size);
  }
  const bool dgc = c.method == Method::kDgc;
  const int64_t warmup_steps = dgc ? c.dgc.warmup_steps : c.topk.warmup_steps;
  if (warmup_steps > 0 && (dgc ? c.dgc.warmup_density : c.topk.warmup_density).empty()) {
    const absl::string_view section = dgc ? "dgc" : "topk";
    return Invalid(section, ".warmup_steps = ", warmup_steps, " needs ", section,
                   ".warmup_density, the densities to go through, such as [0.25, 0.0625]");
  }
  if (absl::Status status = ValidatePolicy(c); !status.ok()) return status;
  if (c.method == Method::kAllreduce) {
    return c.compressor == Codec::kQuantize ? ValidateQuantize(c) : absl::OkStatus();
  }

  const absl::string_view method = View(Name(c.method));
  const Codec used = c.method == Method::kDgc ? Codec::kTopK : Codec::kOneBit;
  if (c.compressor != used && origin("compressor") != Origin::kDefault) {
    return Invalid("compressor: ", View(Name(c.compressor)), " does not go with method: ", method,
                   ", which always uses ", View(Name(used)),
                   "; leave compressor out, or choose method: allreduce");
  }
  if (!c.error_feedback) {
    return Invalid("error_feedback: false does not go with method: ", method,
                   ", which keeps what it does not send; leave it out, or choose method: allreduce");
  }
  // To a job whose own optimizer takes it as it takes gradients, a sum is what it asked for.
  if (c.reduce != Reduce::kMean && !(dgc && c.dgc.job_momentum.has_value())) {
    return Invalid("reduce: sum does not go with method: ", method,
                   ", which works on the mean; leave it out, or choose method: allreduce",
                   dgc ? ", or state dgc.job_momentum" : "");
  }
  return dgc ? ValidateDgc(c.dgc) : absl::OkStatus();
}

Origin Settings::origin(std::string_view path) const {
  const ConfigKey* const key = FindConfigKey(path);
  return key == nullptr ? Origin::kDefault : origins_[static_cast<size_t>(key - ConfigKeys().data())];
}

std::string Settings::Show() const {
  std::string text;
  for (size_t i = 0; i < origins_.size(); ++i) {
    const ConfigKey& key = ConfigKeys()[i];
    absl::StrAppend(&text, View(key.path), " = ", key.get(config_), "  # ", View(Name(origins_[i])), "\n");
  }
  return text;
}

std::string AgreedText(const Config& config) {
  std::string text;
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.agreed) absl::StrAppend(&text, View(key.path), " = ", key.get(config), "\n");
  }
  return text;
}

}  // namespace terse::wire
