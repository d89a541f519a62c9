// SPDX-License-Identifier: Apache-2.0
//
// L-GreCo against the uniform setting on gradients that a training has recorded (the examples' --record), by
// the same policy, tables and codecs that a job uses: docs/results/policies.md.
//
//   plan_study [options] FOLDER/rank*.safetensors
//
// Each rank's gradients go through the uniform setting with error feedback, step by step. In the last
// --window of the recorded steps the error tables are taken from gradient and residual, and averaged over
// steps and ranks; from these the policy decides. Then both plans encode the same vectors of the window, and
// what they leave behind is measured. Where L-GreCo's measured error is above the uniform setting's (tables
// are estimates), its budget is lowered until it is not: "bytes" are at equal measured error.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "benchmarks/recorded_gradients.h"
#include "compressors/errors/error_table.h"
#include "compressors/kernels/vector.h"
#include "compressors/memory/large_vector.h"
#include "compressors/registry.h"
#include "nlohmann/json.hpp"
#include "runtime/controller/policy/adaptive_policy.h"
#include "runtime/controller/policy/setting.h"

namespace terse::benchmarks {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string title = "gradients";
  int world_size = 4;
  int64_t window = 10;
  double density = 0.01;
  bool json = false;
};

template <typename T>
T Take(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(std::string(value.status().message()));
  return *std::move(value);
}

void Take(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

// A rank's tensor under one row. Alone: nobody else's gradients take part.
class Encoder {
 public:
  Encoder(const wire::PlanRow& row, const policy::TensorInfo& tensor)
      : row_(row), tensor_(tensor), codec_(*FindCompressor(row.codec)), residual_(tensor.elements) {
    const bool linear = codec_.kind() == Kind::kLinear;
    sizes_ = linear ? codec_.SizesOf(row.params, tensor.shape) : RoundSizes{};
    state_.resize(linear ? sizes_.state : codec_.StateBytes(row.params, tensor.elements));
  }

  // The vector to encode, in and out: what is left of it. What adapts to vectors is kept for the next one.
  void Leave(std::vector<float>* c, uint64_t step) {
    std::fill(residual_.begin(), residual_.end(), 0.0f);
    const RandomKey random = {.seed = 1, .step = step, .rank = 0, .tensor = tensor_.id};
    if (codec_.kind() == Kind::kLinear) {
      LeaveByRounds(*c, random);
    } else {
      std::vector<std::byte> out(codec_.MaxPayloadBytes(row_.params, c->size()));
      FloatVector scratch(codec_.ScratchBytes(row_.params, c->size()) / sizeof(float) + 1);
      Shard shard{.begin = 0, .end = c->size(), .out = absl::MakeSpan(out)};
      EncodeArgs args;
      args.input = *c;
      args.residual = absl::MakeSpan(residual_);
      args.state = absl::MakeSpan(state_);
      args.scratch = Bytes(&scratch);
      args.random = random;
      Take(codec_.Encode(row_.params, args, absl::MakeSpan(&shard, 1)).status());
      codec_.Materialize(row_.params, args.state, args.residual);
    }
    std::copy(residual_.begin(), residual_.end(), c->begin());
  }

 private:
  static wire::MutableBytes Bytes(FloatVector* memory) {
    return {reinterpret_cast<std::byte*>(memory->data()), memory->size() * sizeof(float)};
  }

  void LeaveByRounds(const std::vector<float>& c, const RandomKey& random) {
    FloatVector scratch(sizes_.scratch / sizeof(float) + 1);
    std::vector<std::byte> payload(sizes_.payload);
    FloatVector out(c.size());
    RoundArgs args;
    args.shape = tensor_.shape;
    args.input = c;
    args.residual = absl::MakeSpan(residual_);
    args.state = absl::MakeSpan(state_);
    args.payload = absl::MakeSpan(payload);
    args.scratch = Bytes(&scratch);
    args.random = random;
    for (size_t round = 0; round < codec_.Rounds(row_.params); ++round) {
      FloatVector floats(codec_.RoundFloats(row_.params, tensor_.shape, round));
      Take(codec_.BeginRound(row_.params, args, round, absl::MakeSpan(floats)).status());
      Take(codec_.EndRound(row_.params, args, round, floats, absl::MakeSpan(out)));
    }
    Take(codec_.Decode(row_.params, payload, -1.0f, Accumulate::kAdd, absl::MakeSpan(residual_)));
  }

  const wire::PlanRow row_;
  const policy::TensorInfo tensor_;
  const Compressor& codec_;
  RoundSizes sizes_;
  FloatVector residual_;
  std::vector<std::byte> state_;
};

double Square(const std::vector<float>& values) {
  double sum = 0;
  for (const float x : values) sum += double{x} * x;
  return sum;
}

// The steps of one tensor of one rank under `uniform`: calls visit(c, left, step, counts) with the gradient
// and residual of each, what is left of them, and whether the step belongs to the window.
template <typename Visit>
void Replay(const RecordedGradients& rank, size_t t, const policy::TensorInfo& tensor,
            const wire::PlanRow& uniform, int64_t window, Visit visit) {
  Encoder encoder(uniform, tensor);
  std::vector<float> residual(tensor.elements);
  std::vector<float> c;
  for (int64_t s = 0; s < rank.steps(); ++s) {
    rank.Read(s, t, &c);
    for (size_t i = 0; i < c.size(); ++i) c[i] = (std::isfinite(c[i]) ? c[i] : 0.0f) + residual[i];
    residual = c;
    encoder.Leave(&residual, static_cast<uint64_t>(s));
    visit(c, residual, s, s >= rank.steps() - window);
  }
}

// What a word means for `policy.error`.
wire::ErrorMetric MetricOf(const std::string& word) {
  wire::Settings settings;
  Take(settings.Set("policy.error", word, wire::Origin::kFlag));
  return settings.config().policy.error;
}

// One comparison: a uniform setting, and the families that L-GreCo may choose from.
class Study {
 public:
  Study(const std::vector<RecordedGradients>& ranks, const Options& options, const wire::Config& config)
      : ranks_(ranks),
        options_(options),
        config_(config),
        tensors_(ranks[0].tensors()),
        weight_(1.0 / static_cast<double>(options.window * static_cast<int64_t>(ranks.size()))) {
    const policy::AdaptivePolicy policy(config, options.world_size, tensors_);
    candidates_ = policy.candidates();
    uniform_ = policy.rows();
    statistics_.resize(tensors_.size());
    measured_.resize(tensors_.size());
    for (size_t t = 0; t < tensors_.size(); ++t) {
      if (candidates_[t].Fixed()) continue;
      statistics_[t].norm = MeanNorm(t);
      std::vector<double>& table = statistics_[t].squared_error;
      table.resize(candidates_[t].all.size());
      const std::vector<policy::Family> families = policy::FamiliesOf(candidates_[t]);
      double left = 0;
      for (const RecordedGradients& rank : ranks) {
        const auto visit = [&](const std::vector<float>& c, const std::vector<float>& residual,
                               int64_t /*step*/, bool counts) {
          if (!counts) return;
          size_t k = 0;
          for (const policy::Family& family : families) {
            for (const double error :
                 Take(SquaredErrors(family.codec, family.settings, c, tensors_[t].shape)))
              table[k++] += weight_ * error;
          }
          left += weight_ * Square(residual);
        };
        Replay(rank, t, tensors_[t], uniform_[t], options.window, visit);
      }
      measured_[t][wire::RowText(uniform_[t])] = left;
    }
  }

  // The plan of least bytes whose measured error is not above the uniform setting's. Tables are estimates:
  // where alpha = 1 leaves more, the greatest alpha that does not is looked for.
  nlohmann::json Decide(const std::string& error) {
    const wire::ErrorMetric metric = MetricOf(error);
    const double uniform_error = Measured(uniform_, metric);
    Decision best = DecideAt(metric, 1);
    const double lower_bound = best.outcome.lower_bound;
    if (best.error > uniform_error) {
      double too_much = 1;
      double enough = 0.1;
      best = DecideAt(metric, enough);
      for (int i = 0; i < 12; ++i) {
        const double alpha = 0.5 * (too_much + enough);
        Decision decision = DecideAt(metric, alpha);
        (decision.error > uniform_error ? too_much : enough) = alpha;
        if (decision.error <= uniform_error && decision.outcome.bytes < best.outcome.bytes)
          best = std::move(decision);
      }
      if (best.outcome.bytes > best.outcome.uniform_bytes || best.error > uniform_error) {
        best.alpha = 1;
        best.rows = uniform_;
        best.outcome.bytes = best.outcome.uniform_bytes;
        best.error = uniform_error;
      }
    }
    std::map<std::string, int> settings;
    for (size_t t = 0; t < tensors_.size(); ++t) {
      if (!candidates_[t].Fixed()) settings[policy::SettingWord(best.rows[t])] += 1;
    }
    return {{"gradients", options_.title},
            {"uniform", std::string(wire::Name(config_.compressor))},
            {"families", config_.policy.families},
            {"error", error},
            {"tensors", Compressed()},
            {"uniform_bytes", best.outcome.uniform_bytes},
            {"bytes", best.outcome.bytes},
            {"lower_bound", lower_bound},
            {"alpha", best.alpha},
            {"uniform_error", uniform_error},
            {"measured_error", best.error},
            {"whole_error", Measured(best.rows, wire::ErrorMetric::kSquaredNorm)},
            {"uniform_whole_error", Measured(uniform_, wire::ErrorMetric::kSquaredNorm)},
            {"settings", settings}};
  }

 private:
  struct Decision {
    double alpha = 1;
    policy::AdaptiveOutcome outcome;
    std::vector<wire::PlanRow> rows;
    double error = 0;  // measured
  };

  Decision DecideAt(wire::ErrorMetric metric, double alpha) {
    wire::Config config = config_;
    config.policy.error = metric;
    policy::AdaptivePolicy policy(config, options_.world_size, tensors_);
    Take(policy.SetAlpha(alpha));
    Decision decision{.alpha = alpha, .outcome = Take(policy.Step(statistics_)), .rows = policy.rows()};
    decision.error = Measured(decision.rows, metric);
    return decision;
  }

  int Compressed() const {
    return static_cast<int>(std::count_if(candidates_.begin(), candidates_.end(),
                                          [](const policy::Candidates& its) { return !its.Fixed(); }));
  }

  // What these rows leave behind of the window's vectors, as the metric adds it up; of squares the root.
  double Measured(const std::vector<wire::PlanRow>& rows, wire::ErrorMetric metric) {
    double sum = 0;
    for (size_t t = 0; t < tensors_.size(); ++t) {
      if (candidates_[t].Fixed()) continue;
      const auto [at, fresh] = measured_[t].try_emplace(wire::RowText(rows[t]), 0.0);
      if (fresh) at->second = SquaredLeft(t, rows[t]);
      sum += policy::AddedError(metric, at->second, tensors_[t].elements, statistics_[t].norm);
    }
    return metric == wire::ErrorMetric::kNorm ? sum : std::sqrt(sum);
  }

  // Of the window's gradients.
  double MeanNorm(size_t t) const {
    double norm = 0;
    std::vector<float> gradient;
    for (const RecordedGradients& rank : ranks_) {
      for (int64_t s = rank.steps() - options_.window; s < rank.steps(); ++s) {
        rank.Read(s, t, &gradient);
        norm += weight_ * kernels::FiniteNorm(gradient);
      }
    }
    return norm;
  }

  double SquaredLeft(size_t t, const wire::PlanRow& row) const {
    double left = 0;
    for (const RecordedGradients& rank : ranks_) {
      Encoder encoder(row, tensors_[t]);
      const auto visit = [&](std::vector<float> c, const std::vector<float>& /*residual*/, int64_t step,
                             bool counts) {
        encoder.Leave(&c, static_cast<uint64_t>(step));  // before the window too: a factor warms up
        if (counts) left += weight_ * Square(c);
      };
      Replay(rank, t, tensors_[t], uniform_[t], options_.window, visit);
    }
    return left;
  }

  const std::vector<RecordedGradients>& ranks_;
  const Options& options_;
  const wire::Config config_;
  const std::vector<policy::TensorInfo> tensors_;
  const double weight_;  // of one rank's step in a mean over window and ranks
  std::vector<policy::Candidates> candidates_;
  std::vector<wire::PlanRow> uniform_;
  std::vector<policy::TensorStatistics> statistics_;
  std::vector<std::map<std::string, double>> measured_;  // squared, by tensor and row
};

void PrintRow(const nlohmann::json& row) {
  const std::string families = row.at("families").empty() ? "its own" : "all three";
  const auto number = [&](const char* key) { return row.at(key).get<double>(); };
  std::printf("| `%s` | %s | %s | %.0f | %.0f | %.2f | %.0f | %.2f | %.3f | %.3f | %.3f |\n",
              row.at("uniform").get<std::string>().c_str(), families.c_str(),
              row.at("error").get<std::string>().c_str(), number("uniform_bytes"), number("bytes"),
              number("uniform_bytes") / number("bytes"), number("lower_bound"),
              number("uniform_bytes") / number("lower_bound"),
              number("measured_error") / number("uniform_error"),
              number("whole_error") / number("uniform_whole_error"), number("alpha"));
  std::fflush(stdout);
}

int Main(const Options& options) {
  std::vector<RecordedGradients> ranks;
  for (const std::string& file : options.files) ranks.emplace_back(file);
  for (const RecordedGradients& rank : ranks) {
    if (!rank.SameTensors(ranks[0]))
      throw std::runtime_error(rank.path() + " has other tensors or steps than " + ranks[0].path());
  }
  if (options.window > ranks[0].steps()) {
    throw std::runtime_error("--window " + std::to_string(options.window) + " is more than the " +
                             std::to_string(ranks[0].steps()) + " recorded steps");
  }
  nlohmann::json rows = nlohmann::json::array();
  if (!options.json) {
    std::printf("%s, %zu ranks recorded, bytes of %d ranks:\n\n", options.title.c_str(), ranks.size(),
                options.world_size);
    std::printf(
        "| uniform | families | error | uniform bytes | bytes | times fewer | lower bound | at most | "
        "measured error | of the whole | alpha |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
  }
  for (const wire::Codec uniform : {wire::Codec::kQuantize, wire::Codec::kTopK, wire::Codec::kPowerSgd}) {
    for (const bool mixed : {false, true}) {
      wire::Config config;
      config.compressor = uniform;
      config.policy.name = wire::PolicyName::kLgreco;
      config.policy.gain = 0;
      config.topk.density = options.density;
      if (mixed) config.policy.families = {"quantize", "topk", "powersgd"};
      Study study(ranks, options, config);
      for (const char* const error : {"l2", "squared", "relative", "adam"}) {
        rows.push_back(study.Decide(error));
        if (!options.json) PrintRow(rows.back());
      }
    }
  }
  if (options.json) std::printf("%s\n", rows.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace terse::benchmarks

int main(int argc, char** argv) {
  terse::benchmarks::Options options;
  CLI::App app("L-GreCo against the uniform setting on recorded gradients.", "plan_study");
  app.add_option("files", options.files, "each rank's gradients (fashion_mnist --record, char_lm --record)")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--title", options.title, "what the gradients are called")->capture_default_str();
  app.add_option("--world-size", options.world_size, "ranks of the job whose bytes are counted")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  app.add_option("--window", options.window, "recorded steps, the last ones, that errors are taken from")
      ->check(CLI::Range(int64_t{1}, int64_t{10000}))
      ->capture_default_str();
  app.add_option("--density", options.density, "of top-k's uniform setting")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  app.add_flag("--json", options.json, "rows as JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    return terse::benchmarks::Main(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plan_study: %s\n", error.what());
    return 1;
  }
}
