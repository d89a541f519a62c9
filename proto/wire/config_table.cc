// SPDX-License-Identifier: Apache-2.0
//
// The rows of the configuration table. A row names its key, the values that are allowed and the field
// of Config; how the value is read, checked, written and described follows from its kind.
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/wire/config.h"
#include "proto/wire/config_values.h"

namespace terse::wire {
namespace {

// Config's field that a path of member pointers leads to: Field<&Config::topk, &Config::TopK::density>.
template <auto... kMembers>
auto& Field(auto& config) {
  return (config.*....*kMembers);
}

template <const NumberRange& kRange, auto... kMembers>
ConfigKey Number(std::string_view path, std::string_view help) {
  static const std::string& words = *new std::string(Words(kRange));
  return {path,
          "number",
          words,
          help,
          [](std::string_view text, Config* config) {
            return ParseNumber(text, kRange, &Field<kMembers...>(*config));
          },
          [](const Config& config) { return NumberText(Field<kMembers...>(config)); },
          true};
}

template <const NumberRange& kRange, auto... kMembers>
ConfigKey Numbers(std::string_view path, std::string_view help) {
  static const std::string& words = *new std::string(absl::StrCat("each ", Words(kRange)));
  return {path,
          "list of numbers",
          words,
          help,
          [](std::string_view text, Config* config) {
            return ParseNumbers(text, kRange, &Field<kMembers...>(*config));
          },
          [](const Config& config) { return NumbersText(Field<kMembers...>(config)); },
          true};
}

template <const IntegerRange& kRange, auto... kMembers>
ConfigKey Integer(std::string_view path, std::string_view help) {
  static const std::string& words = *new std::string(Words(kRange));
  return {path,
          "integer",
          words,
          help,
          [](std::string_view text, Config* config) {
            return ParseInteger(text, kRange, &Field<kMembers...>(*config));
          },
          [](const Config& config) { return std::to_string(Field<kMembers...>(config)); },
          true};
}

// An integer, or "auto" for kAuto, which lies outside the range.
template <const IntegerRange& kRange, int64_t kAuto, auto... kMembers>
ConfigKey IntegerOrAuto(std::string_view path, std::string_view help) {
  static const std::string& words = *new std::string("auto | " + Words(kRange));
  return {path,
          "auto or integer",
          words,
          help,
          [](std::string_view text, Config* config) {
            int64_t value = kAuto;
            if (text != "auto" && !ParseInteger(text, kRange, &value).ok()) {
              return absl::InvalidArgumentError(absl::StrCat("must be auto, or an integer, ", Words(kRange)));
            }
            Field<kMembers...>(*config) = value;
            return absl::OkStatus();
          },
          [](const Config& config) {
            const int64_t value = Field<kMembers...>(config);
            return value == kAuto ? "auto" : std::to_string(value);
          },
          true};
}

// A number, or "none" for one that is not stated.
template <const NumberRange& kRange, auto... kMembers>
ConfigKey NumberOrNone(std::string_view path, std::string_view help) {
  static const std::string& words = *new std::string("none | " + Words(kRange));
  return {path,
          "none or number",
          words,
          help,
          [](std::string_view text, Config* config) {
            std::optional<double> value;
            if (text != "none" && !ParseNumber(text, kRange, &value.emplace()).ok()) {
              return absl::InvalidArgumentError(absl::StrCat("must be none, or a number, ", Words(kRange)));
            }
            Field<kMembers...>(*config) = value;
            return absl::OkStatus();
          },
          [](const Config& config) {
            const std::optional<double>& value = Field<kMembers...>(config);
            return value.has_value() ? NumberText(*value) : "none";
          },
          true};
}

template <auto... kMembers>
ConfigKey Boolean(std::string_view path, std::string_view help) {
  return {
      path,
      "boolean",
      kBooleanWords,
      help,
      [](std::string_view text, Config* config) { return ParseBoolean(text, &Field<kMembers...>(*config)); },
      [](const Config& config) { return BooleanText(Field<kMembers...>(config)); },
      true};
}

template <auto... kMembers>
ConfigKey Word(std::string_view path, std::string_view help) {
  return {path,
          "text",
          kWordWords,
          help,
          [](std::string_view text, Config* config) { return ParseWord(text, &Field<kMembers...>(*config)); },
          [](const Config& config) { return Field<kMembers...>(config); },
          true};
}

template <auto... kMembers>
ConfigKey Path(std::string_view path, std::string_view help) {
  return {path,
          "path",
          kPathWords,
          help,
          [](std::string_view text, Config* config) { return ParsePath(text, &Field<kMembers...>(*config)); },
          [](const Config& config) { return Field<kMembers...>(config); },
          true};
}

template <auto... kMembers>
ConfigKey Patterns(std::string_view path, std::string_view help) {
  return {
      path,
      "list of patterns",
      kPatternWords,
      help,
      [](std::string_view text, Config* config) { return ParsePatterns(text, &Field<kMembers...>(*config)); },
      [](const Config& config) { return PatternsText(Field<kMembers...>(config)); },
      true};
}

// The names of values that only the configuration spells.
std::string_view Name(Reduce reduce) { return reduce == Reduce::kMean ? "mean" : "sum"; }
std::string_view Name(IndexCoding index) { return index == IndexCoding::kU32 ? "u32" : "rice"; }
std::string_view Name(SelectionRule rule) { return rule == SelectionRule::kExact ? "exact" : "sampled"; }
std::string_view Name(ValueFormat format) {
  return format == ValueFormat::kFp32 ? "fp32" : (format == ValueFormat::kFp16 ? "fp16" : "bf16");
}
std::string_view Name(SparseExchange exchange) {
  switch (exchange) {
    case SparseExchange::kAuto:
      return "auto";
    case SparseExchange::kAllGather:
      return "all_gather";
    case SparseExchange::kSparseReduce:
      return "sparse_reduce";
  }
  return "";
}
std::string_view Name(PolicyName name) {
  switch (name) {
    case PolicyName::kStatic:
      return "static";
    case PolicyName::kLgreco:
      return "lgreco";
    case PolicyName::kAccordion:
      return "accordion";
    case PolicyName::kLgrecoAccordion:
      return "lgreco_accordion";
    case PolicyName::kReplay:
      return "replay";
  }
  return "";
}
std::string_view Name(Objective objective) { return objective == Objective::kBytes ? "bytes" : "time"; }
std::string_view Name(ErrorMetric metric) {
  switch (metric) {
    case ErrorMetric::kNorm:
      return "l2";
    case ErrorMetric::kSquaredNorm:
      return "squared";
    case ErrorMetric::kRelative:
      return "relative";
    case ErrorMetric::kAdam:
      return "adam";
  }
  return "";
}
std::string_view Name(DecayForm form) { return form == DecayForm::kBuffer ? "buffer" : "local"; }
std::string_view Name(Rounding rounding) { return rounding == Rounding::kNearest ? "nearest" : "stochastic"; }
std::string_view Name(QuantizeSpan span) {
  switch (span) {
    case QuantizeSpan::kMinMax:
      return "minmax";
    case QuantizeSpan::kMax:
      return "max";
    case QuantizeSpan::kL2:
      return "l2";
  }
  return "";
}
std::string_view Name(ScaleNorm scale) { return scale == ScaleNorm::kL2 ? "l2" : "l1"; }
std::string_view Name(LowRankError error) { return error == LowRankError::kAveraged ? "averaged" : "local"; }
std::string_view Name(std::string_view name) { return name; }
std::string_view Name(bool dense_deterministic) { return dense_deterministic ? "deterministic" : "native"; }

// One of kValues, each spelt as Name() spells it.
template <const auto& kValues, auto... kMembers>
ConfigKey Choice(std::string_view path, std::string_view help) {
  static const auto& names = *new std::vector<std::string_view>([] {
    std::vector<std::string_view> all;
    for (const auto& value : kValues) all.push_back(Name(value));
    return all;
  }());
  static const std::string& words = *new std::string(Words(names));
  return {path,
          "choice",
          words,
          help,
          [](std::string_view text, Config* config) {
            size_t index = 0;
            const absl::Status status = ParseChoice(text, names, &index);
            if (status.ok()) Field<kMembers...>(*config) = kValues[index];
            return status;
          },
          [](const Config& config) { return std::string(Name(Field<kMembers...>(config))); },
          true};
}

// A key whose value may differ from rank to rank.
ConfigKey PerRank(ConfigKey key) {
  key.agreed = false;
  return key;
}

constexpr Method kMethods[] = {Method::kAllreduce, Method::kDgc, Method::kOneBitAdam};
constexpr Codec kCompressors[] = {Codec::kNone,   Codec::kFp16,     Codec::kBf16,    Codec::kTopK,
                                  Codec::kOneBit, Codec::kQuantize, Codec::kPowerSgd};
constexpr Reduce kReduces[] = {Reduce::kMean, Reduce::kSum};
constexpr bool kDense[] = {false, true};
constexpr IndexCoding kIndexCodings[] = {IndexCoding::kU32, IndexCoding::kRice};
constexpr SelectionRule kSelectionRules[] = {SelectionRule::kExact, SelectionRule::kSampled};
constexpr ValueFormat kValueFormats[] = {ValueFormat::kFp32, ValueFormat::kFp16, ValueFormat::kBf16};
constexpr SparseExchange kSparseExchanges[] = {SparseExchange::kAuto, SparseExchange::kAllGather,
                                               SparseExchange::kSparseReduce};
constexpr PolicyName kPolicies[] = {PolicyName::kStatic, PolicyName::kLgreco, PolicyName::kAccordion,
                                    PolicyName::kLgrecoAccordion, PolicyName::kReplay};
constexpr Objective kObjectives[] = {Objective::kBytes, Objective::kTime};
constexpr ErrorMetric kErrorMetrics[] = {ErrorMetric::kNorm, ErrorMetric::kSquaredNorm,
                                         ErrorMetric::kRelative, ErrorMetric::kAdam};
constexpr DecayForm kDecayForms[] = {DecayForm::kBuffer, DecayForm::kLocal};
constexpr Rounding kRoundings[] = {Rounding::kNearest, Rounding::kStochastic};
constexpr QuantizeSpan kSpans[] = {QuantizeSpan::kMinMax, QuantizeSpan::kMax, QuantizeSpan::kL2};
constexpr ScaleNorm kScales[] = {ScaleNorm::kL2, ScaleNorm::kL1};
constexpr LowRankError kLowRankErrors[] = {LowRankError::kAveraged, LowRankError::kLocal};
constexpr std::string_view kTransports[] = {"mpi", "mpi_openmpi", "mpi_mpich", "inproc"};

constexpr NumberRange kFraction = {.above_low = true, .high = 1.0};
constexpr NumberRange kDecay = {.high = 1.0, .below_high = true};
constexpr NumberRange kPositive = {.above_low = true};
constexpr NumberRange kNotNegative = {};

constexpr IntegerRange kCount = {};
constexpr IntegerRange kSteps = {.high = 1'000'000'000'000};
constexpr IntegerRange kInterval = {.low = 1, .high = 1'000'000'000};
constexpr IntegerRange kFreeze = {.low = 1, .high = 1'000'000'000'000};
constexpr IntegerRange kBits = {.low = 1, .high = 8};
constexpr IntegerRange kQuantizeBlock = {.low = 16, .high = 65536, .multiple = 16};
constexpr IntegerRange kOneBitBlock = {.low = 0, .high = int64_t{1} << 30, .multiple = 8};
constexpr IntegerRange kLowRank = {.low = 1, .high = 1024};
constexpr IntegerRange kThreads = {.low = 1, .high = 256};
constexpr IntegerRange kSeconds = {.low = 1, .high = 86400};
constexpr IntegerRange kRank = {.low = 0, .high = (int64_t{1} << 31) - 2, .other = -1};
constexpr IntegerRange kWorldSize = {.low = 1, .high = (int64_t{1} << 31) - 1, .other = -1};

std::vector<ConfigKey> MakeRows() {
  using C = Config;
  return {
      Choice<kMethods, &C::method>("method",
                                   "the rule that turns local gradients into what the optimizer gets"),
      Choice<kCompressors, &C::compressor>(
          "compressor", "the codec of method allreduce; dgc uses topk, onebit_adam onebit"),
      Boolean<&C::error_feedback>("error_feedback",
                                  "keep what a compressor did not send and add it to the next gradient"),
      Choice<kReduces, &C::reduce>("reduce", "what an all-reduce of the ranks' gradients gives"),
      Choice<kDense, &C::dense_deterministic>("dense",
                                              "dense sums by the transport's own all-reduce, or in rank "
                                              "order and so equal to the bit everywhere"),
      Integer<kCount, &C::min_elements>("min_elements", "tensors with fewer elements go dense"),
      Patterns<&C::include>("include", "tensors whose name none of these patterns matches go dense"),
      Patterns<&C::exclude>("exclude", "tensors whose name one of these patterns matches go dense"),
      Boolean<&C::dense_when_faster>(
          "dense_when_faster",
          "time each compressed tensor against dense and use the faster; results then depend on times"),

      Number<kFraction, &C::topk, &C::TopK::density>(
          "topk.density", "fraction of the elements that is sent after the warm-up"),
      Choice<kIndexCodings, &C::topk, &C::TopK::index>(
          "topk.index", "how positions are coded: 4 bytes each, or their gaps in a Rice code"),
      Choice<kSelectionRules, &C::topk, &C::TopK::selection>(
          "topk.selection", "the largest elements, or those above a sampled threshold: 80 to 100 % as many"),
      Choice<kValueFormats, &C::topk, &C::TopK::values>(
          "topk.values", "how values are sent; what rounding cuts off stays in the residual"),
      Choice<kSparseExchanges, &C::topk, &C::TopK::exchange>(
          "topk.exchange",
          "how the entries of topk and dgc travel: all to all ranks, or to owners that hand on the largest "
          "sums; "
          "auto: what the cost model takes for the faster"),
      Integer<kSteps, &C::topk, &C::TopK::warmup_steps>(
          "topk.warmup_steps", "steps over which the density falls through topk.warmup_density; 0: none"),
      Numbers<kFraction, &C::topk, &C::TopK::warmup_density>(
          "topk.warmup_density", "densities of the warm-up, each for an equal share of its steps"),

      Integer<kBits, &C::quantize, &C::Quantize::bits>(
          "quantize.bits", "bits per element; with error feedback 2 at least, as residuals of 1 bit grow"),
      Integer<kQuantizeBlock, &C::quantize, &C::Quantize::block>("quantize.block",
                                                                 "elements that share a span"),
      Choice<kRoundings, &C::quantize, &C::Quantize::rounding>(
          "quantize.rounding", "how an element between two levels is rounded"),
      Choice<kSpans, &C::quantize, &C::Quantize::span>(
          "quantize.span",
          "what the levels of a block reach over: its minimum to its maximum, or plus and minus its greatest "
          "magnitude or its L2 norm"),

      Choice<kScales, &C::onebit, &C::OneBit::scale>("onebit.scale",
                                                     "the norm that the scale of a block keeps equal"),
      Integer<kOneBitBlock, &C::onebit, &C::OneBit::block>(
          "onebit.block", "elements that share a scale; 0: the whole tensor"),

      Integer<kLowRank, &C::powersgd, &C::PowerSgd::rank>(
          "powersgd.rank", "columns of the two factors that are sent of a matrix"),
      Choice<kLowRankErrors, &C::powersgd, &C::PowerSgd::error>(
          "powersgd.error", "what error feedback takes off: the result, or the rank's own part of it"),

      Number<kFraction, &C::dgc, &C::Dgc::density>("dgc.density",
                                                   "fraction of the elements that is sent after the warm-up"),
      Number<kDecay, &C::dgc, &C::Dgc::momentum>(
          "dgc.momentum",
          "momentum, applied before selection; the job's own must be 0, or be stated: then this is the same"),
      Boolean<&C::dgc, &C::Dgc::nesterov>(
          "dgc.nesterov",
          "Nesterov's form of the momentum; where the job's momentum is stated, as it has it"),
      Boolean<&C::dgc, &C::Dgc::masking>("dgc.masking", "clear the momentum of elements that were sent"),
      Number<kNotNegative, &C::dgc, &C::Dgc::clip>(
          "dgc.clip",
          "bound of the norm of a tensor's reduced gradient, held by clipping each rank's; 0: off"),
      Number<kNotNegative, &C::dgc, &C::Dgc::weight_decay>("dgc.weight_decay",
                                                           "weight decay, applied by the optimizer step"),
      Choice<kDecayForms, &C::dgc, &C::Dgc::decay>(
          "dgc.decay", "weight decay in a buffer beside the exchange, or in each rank's gradient"),
      Integer<kSteps, &C::dgc, &C::Dgc::warmup_steps>(
          "dgc.warmup_steps", "steps over which the density falls through dgc.warmup_density; 0: none"),
      Numbers<kFraction, &C::dgc, &C::Dgc::warmup_density>(
          "dgc.warmup_density", "densities of the warm-up, each for an equal share of its steps"),
      NumberOrNone<kDecay, &C::dgc, &C::Dgc::job_momentum>(
          "dgc.job_momentum",
          "momentum of the optimizer to which the job gives the result, which then is not applied twice"),
      Boolean<&C::dgc, &C::Dgc::job_nesterov>("dgc.job_nesterov",
                                              "that optimizer has Nesterov's form of the momentum"),

      Number<kDecay, &C::adam, &C::Adam::beta1>("adam.beta1", "decay of the mean of gradients"),
      Number<kDecay, &C::adam, &C::Adam::beta2>("adam.beta2", "decay of the mean of squared gradients"),
      Number<kPositive, &C::adam, &C::Adam::eps>("adam.eps", "added to the root of the variance"),
      Number<kNotNegative, &C::adam, &C::Adam::weight_decay>("adam.weight_decay",
                                                             "weight decay, applied by the optimizer step"),
      Boolean<&C::adam, &C::Adam::bias_correction>(
          "adam.bias_correction", "divide mean and variance by what they lack after few steps"),
      IntegerOrAuto<kFreeze, C::Adam::kAuto, &C::adam, &C::Adam::freeze>(
          "adam.freeze",
          "steps of exact Adam before the variance is frozen; auto: until the variance has settled"),
      Integer<kSteps, &C::adam, &C::Adam::lr_warmup_steps>(
          "adam.lr_warmup_steps", "steps of the job's learning-rate warm-up, in which auto does not freeze"),
      Number<kNotNegative, &C::adam, &C::Adam::variance_floor>(
          "adam.variance_floor", "least variance at the freeze, as a fraction of the tensor's mean variance"),

      Choice<kPolicies, &C::policy, &C::Policy::name>("policy.name",
                                                      "who makes plans: the configuration, or from measured "
                                                      "errors L-GreCo, Accordion, or the first within "
                                                      "the second's budget; replay: a file of plans"),
      Integer<kInterval, &C::policy, &C::Policy::interval>("policy.interval", "steps between two decisions"),
      Integer<kInterval, &C::policy, &C::Policy::window>(
          "policy.window", "steps before a decision in which errors are measured; at most the interval"),
      Patterns<&C::policy, &C::Policy::families>("policy.families",
                                                 "codecs to choose among for each tensor, beside compressor"),
      Choice<kErrorMetrics, &C::policy, &C::Policy::error>(
          "policy.error",
          "what adds up to the budget: norms of errors, as published; their squares; squares relative to "
          "each "
          "tensor's gradient; or what they cost Adam"),
      Number<kPositive, &C::policy, &C::Policy::alpha>(
          "policy.alpha", "the budget, as a multiple of the error that the configured setting leaves"),
      Number<kNotNegative, &C::policy, &C::Policy::gain>(
          "policy.gain", "part of a step's bytes or time that another plan must save to be taken"),
      Choice<kObjectives, &C::policy, &C::Policy::objective>(
          "policy.objective",
          "what plans make small: bytes, or the time until a step's last tensor is there"),
      PerRank(Path<&C::policy, &C::Policy::history>(
          "policy.history", "replay: the file of plans that is repeated; rank 0 reads it")),
      PerRank(Path<&C::policy, &C::Policy::record>(
          "policy.record", "file to which rank 0 writes the plans that come into force; empty: none")),

      Number<kPositive, &C::network, &C::Network::gbit>(
          "network.gbit", "rate of a rank's link in Gbit/s, for the cost model that chooses exchanges"),
      Number<kNotNegative, &C::network, &C::Network::latency_us>(
          "network.latency_us", "latency of a message in microseconds, for the cost model"),

      Choice<kTransports, &C::transport, &C::Transport::name>(
          "transport.name", "what moves bytes between ranks; mpi: the one of the MPI library that is loaded"),
      PerRank(Integer<kSeconds, &C::transport, &C::Transport::timeout_s>(
          "transport.timeout_s", "seconds without a sign of life after which a peer is lost")),
      PerRank(Word<&C::transport, &C::Transport::hub>("transport.hub",
                                                      "inproc: groups of one process with equal names meet")),

      Path<&C::controller, &C::Controller::address>(
          "controller.address", "host:port of the terse-controller that makes plans; empty: rank 0 does"),
      PerRank(Path<&C::controller, &C::Controller::token_file>(
          "controller.token_file", "file with the token that the controller asks for")),
      PerRank(Path<&C::controller, &C::Controller::job>(
          "controller.job", "what the controller calls this job; empty: the program's name")),
      PerRank(Path<&C::tls, &C::Tls::ca>(
          "tls.ca", "file of the authority that the other side's certificate is to be of; empty: no TLS")),
      PerRank(Path<&C::tls, &C::Tls::cert>("tls.cert", "file of this side's certificate, for mutual TLS")),
      PerRank(Path<&C::tls, &C::Tls::key>("tls.key", "file of this side's private key, for mutual TLS")),

      PerRank(Integer<kRank, &C::rank>("rank",
                                       "this rank, for launchers that are not MPI; -1: from the transport")),
      Integer<kWorldSize, &C::world_size>("world_size", "number of ranks; -1: from the transport"),
      Integer<kCount, &C::seed>("seed", "seed of stochastic rounding and sampling"),
      PerRank(Integer<kThreads, &C::threads>(
          "threads", "kernel threads of each rank; the job's own thread is one of them")),
      PerRank(Path<&C::trace>("trace",
                              "folder for a trace of each rank, rank-N.json, for chrome://tracing or "
                              "Perfetto; empty: none")),
      Boolean<&C::disable>("disable", "send everything through the transport's dense all-reduce"),
  };
}

}  // namespace

absl::Span<const ConfigKey> ConfigKeys() {
  static const auto& rows = *new std::vector<ConfigKey>(MakeRows());
  return rows;
}

}  // namespace terse::wire
