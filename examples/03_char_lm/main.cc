// SPDX-License-Identifier: Apache-2.0
//
// Trains a small character language model on several MPI ranks with asynchronous exchanges: each gradient is
// submitted the moment the backward pass has made it. See README.md.
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/03_char_lm/model.h"
#include "examples/03_char_lm/text.h"
#include "examples/common/files.h"
#include "examples/common/gradient_recorder.h"
#include "examples/common/mpi_session.h"
#include "examples/common/progress.h"
#include "examples/common/torch_parameters.h"
#include "examples/common/traffic.h"

namespace terse::examples {
namespace {

struct Arguments {
  std::vector<std::string> text = {"/usr/share/common-licenses"};
  std::string config_file;
  std::string json_file;
  ModelShape shape;
  RecordOptions record;
  int64_t steps = 600;
  int64_t batch = 16;
  uint64_t seed = 1;
  double learning_rate = 0;  // 0: by the method
  bool quiet = false;
};

void AddOptions(CLI::App* app, Arguments* arguments) {
  app->add_option("--text", arguments->text, "files or folders to learn")
      ->check(CLI::ExistingPath)
      ->capture_default_str();
  app->add_option("--config", arguments->config_file,
                  "YAML file with the Terse configuration; without it TERSE_CONFIG and TERSE_* count")
      ->check(CLI::ExistingFile);
  app->add_option("--steps", arguments->steps, "optimizer steps")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  app->add_option("--batch", arguments->batch, "sequences per rank and step")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--blocks", arguments->shape.blocks, "blocks of the transformer")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app->add_option("--width", arguments->shape.width,
                  "elements of a symbol's vector; a multiple of 4, the heads")
      ->check(CLI::Range(4, 65536))
      ->capture_default_str();
  app->add_option("--seed", arguments->seed, "of the initial weights and of the data's order")
      ->capture_default_str();
  app->add_option("--learning-rate", arguments->learning_rate, "peak, instead of the method's own")
      ->check(CLI::PositiveNumber);
  app->add_option("--json", arguments->json_file, "file to write the results to");
  AddRecordOptions(app, &arguments->record);
  app->add_flag("--quiet", arguments->quiet, "no progress");
}

// Submits every gradient from a hook of the backward pass and waits for all of them after it.
class AsyncExchange {
 public:
  AsyncExchange(Group* group, TorchParameters* parameters)
      : group_(group), inputs_(parameters->tensors().size()) {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const Parameter& description = parameters->descriptions()[i];
      torch::Tensor& tensor = parameters->tensors()[i];
      tensors_.push_back(group->Register(description.name, description.shape));
      results_.push_back(torch::empty_like(tensor));
      tensor.register_hook([this, i](const torch::Tensor& gradient) { Submit(i, gradient); });
    }
  }

  // The results of the backward pass that has just ended. Collective.
  const std::vector<torch::Tensor>& Wait() {
    for (Request& request : requests_) request.Wait();
    requests_.clear();
    return results_;
  }

 private:
  void Submit(size_t i, const torch::Tensor& gradient) {
    // The buffer has to stay as it is until the request is done, and autograd may reuse its own.
    inputs_[i] = gradient.contiguous();
    requests_.push_back(
        group_->AllreduceAsync(tensors_[i], inputs_[i].data_ptr<float>(), results_[i].data_ptr<float>()));
  }

  Group* group_;
  std::vector<TensorId> tensors_;
  std::vector<torch::Tensor> inputs_;
  std::vector<torch::Tensor> results_;
  std::vector<Request> requests_;
};

// What the results of an exchange mean depends on the group's method: a mean gradient, which goes through
// the job's Adam, or a finished update.
class Updater {
 public:
  Updater(const std::string& method, double learning_rate, TorchParameters* parameters)
      : tensors_(parameters->tensors()) {
    if (method == "allreduce") {
      adam_ = std::make_unique<torch::optim::Adam>(tensors_, torch::optim::AdamOptions(0));
      learning_rate_ = 0.002;
    } else {
      learning_rate_ = method == "dgc" ? 0.1 : 0.001;
    }
    if (learning_rate > 0) learning_rate_ = learning_rate;
  }

  double learning_rate() const { return learning_rate_; }  // at its peak

  // `scale` is the schedule's part of the learning rate.
  void Apply(const std::vector<torch::Tensor>& results, double scale) {
    const torch::NoGradGuard no_gradients;
    const double learning_rate = learning_rate_ * scale;
    if (adam_ == nullptr) {
      for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].sub_(results[i], learning_rate);
      return;
    }
    for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].mutable_grad() = results[i];
    static_cast<torch::optim::AdamOptions&>(adam_->param_groups()[0].options()).lr(learning_rate);
    adam_->step();
  }

 private:
  std::vector<torch::Tensor> tensors_;
  std::unique_ptr<torch::optim::Adam> adam_;
  double learning_rate_ = 0;
};

double Schedule(int64_t step, int64_t steps) {
  const int64_t warmup = std::min<int64_t>(50, steps / 2);
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  return 0.5 * (1 + std::cos(std::numbers::pi * static_cast<double>(step - warmup) /
                             static_cast<double>(steps - warmup)));
}

// Sequences of context + 1 symbols that begin at `starts`.
torch::Tensor Sequences(const std::vector<int64_t>& text, const std::vector<int64_t>& starts,
                        int64_t context) {
  torch::Tensor out = torch::empty({static_cast<int64_t>(starts.size()), context + 1}, torch::kInt64);
  auto* to = out.data_ptr<int64_t>();
  for (const int64_t start : starts) to = std::copy_n(text.begin() + start, context + 1, to);
  return out;
}

// Scores of each next symbol, one row each, and what it was.
struct Prediction {
  torch::Tensor scores;
  torch::Tensor symbols;

  torch::Tensor Loss() const { return torch::cross_entropy_loss(scores, symbols); }  // mean, in nats
};

Prediction Predict(CharModel* model, const torch::Tensor& sequences) {
  const int64_t context = sequences.size(1) - 1;
  return {model->forward(sequences.narrow(1, 0, context)).flatten(0, 1),
          sequences.narrow(1, 1, context).reshape(-1)};
}

struct TestResult {
  double bits;      // per character
  double accuracy;  // percent of the characters whose score was highest
};

// On a fixed sample of the test text, which the ranks divide among them. Collective.
TestResult Test(CharModel* model, const Text& text, int64_t context, const MpiSession& session) {
  constexpr int64_t kSequences = 256;
  const torch::NoGradGuard no_gradients;
  const int64_t last = static_cast<int64_t>(text.test.size()) - context - 1;
  std::vector<int64_t> starts;
  for (int64_t i = session.rank(); i < kSequences; i += session.size())
    starts.push_back(last * i / kSequences);
  std::vector<double> sums = {0, 0, 0};
  if (!starts.empty()) {
    const Prediction prediction = Predict(model, Sequences(text.test, starts, context));
    const auto count = static_cast<double>(prediction.symbols.numel());
    sums = {prediction.Loss().item<double>() * count,
            prediction.scores.argmax(1).eq(prediction.symbols).sum().item<double>(), count};
  }
  session.Average(&sums);
  return {sums[0] / sums[2] / std::numbers::ln2, 100 * sums[1] / sums[2]};
}

int Main(Arguments arguments, const MpiSession& session) {
  if (arguments.shape.width % arguments.shape.heads != 0) {
    throw std::runtime_error("--width " + std::to_string(arguments.shape.width) + " is no multiple of " +
                             std::to_string(arguments.shape.heads) + ", the number of heads");
  }
  UseOneThread();
  torch::manual_seed(arguments.seed);
  const int64_t context = arguments.shape.context;
  const Text text = LoadText(arguments.text, static_cast<size_t>(context) + 2, session);
  arguments.shape.symbols = text.symbols;
  const auto model = std::make_shared<CharModel>(arguments.shape);
  TorchParameters parameters(*model);
  parameters.BroadcastFromRoot(session);

  GradientRecorder recorder(arguments.record, arguments.steps, session.rank(), parameters.descriptions());

  const std::string config = arguments.config_file.empty() ? "" : ReadTextFile(arguments.config_file);
  Group group = session.OpenGroup(config);
  const nlohmann::json opened = nlohmann::json::parse(group.Report());
  const std::string method = opened.at("method");
  const std::string compressor = opened.at("compressor");
  if (session.is_root()) {
    std::printf("char_lm: %lld parameters, %zu characters, %d ranks; method %s, compressor %s\n",
                static_cast<long long>(parameters.elements()), text.train.size() + text.test.size(),
                session.size(), method.c_str(), compressor.c_str());
    std::fflush(stdout);
  }
  AsyncExchange exchange(&group, &parameters);
  Updater updater(method, arguments.learning_rate, &parameters);
  const bool show = session.is_root() && !arguments.quiet;
  Progress progress("char_lm", arguments.steps, show ? ProgressStyle::kAuto : ProgressStyle::kNone);

  std::seed_seq seeds{static_cast<uint32_t>(arguments.seed), static_cast<uint32_t>(session.rank())};
  std::mt19937_64 random(seeds);
  const int64_t starts_count = static_cast<int64_t>(text.train.size()) - context;
  const int64_t steps_per_report = std::max<int64_t>(1, arguments.steps / 20);
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t step = 0; step < arguments.steps; ++step) {
    std::vector<int64_t> starts(arguments.batch);
    for (int64_t& start : starts) start = static_cast<int64_t>(random() % starts_count);

    parameters.ClearGradients();
    const torch::Tensor loss = Predict(model.get(), Sequences(text.train, starts, context)).Loss();
    loss.backward();
    if (recorder.Wants(step)) recorder.Add(parameters.Gradients());
    updater.Apply(exchange.Wait(), Schedule(step, arguments.steps));
    group.Step();

    if ((step + 1) % steps_per_report != 0 && step + 1 != arguments.steps) continue;
    std::vector<double> mean_loss = {loss.item<double>()};
    session.Average(&mean_loss);
    if (!std::isfinite(mean_loss[0])) {
      throw std::runtime_error("the loss is not finite at step " + std::to_string(step + 1) +
                               "; a smaller --learning-rate may help");
    }
    std::array<char, 96> details;
    std::snprintf(details.data(), details.size(), "%.3f bits/character  %s sent",
                  mean_loss[0] / std::numbers::ln2,
                  FormatBytes(MeasureTraffic(group, session).bytes_sent).c_str());
    progress.Show(step + 1, details.data());
  }

  const double step_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count() /
      static_cast<double>(arguments.steps);
  const TestResult test = Test(model.get(), text, context, session);
  const Traffic traffic = MeasureTraffic(group, session);
  const std::vector<uint64_t> hashes = session.Gather(parameters.Hash());
  const nlohmann::json report = nlohmann::json::parse(group.Report());
  group.Close();
  const bool equal = std::all_of(hashes.begin(), hashes.end(), [&](uint64_t h) { return h == hashes[0]; });
  if (session.is_root()) {
    const auto steps = static_cast<double>(arguments.steps);
    if (!arguments.json_file.empty()) {
      nlohmann::json result = {{"method", method},
                               {"compressor", compressor},
                               {"config", config},
                               {"parameters", parameters.elements()},
                               {"ranks", session.size()},
                               {"batch_per_rank", arguments.batch},
                               {"seed", arguments.seed},
                               {"steps", arguments.steps},
                               {"learning_rate", updater.learning_rate()},
                               {"step_ms", step_ms},
                               {"bits_per_character", test.bits},
                               {"test_loss", test.bits * std::numbers::ln2},
                               {"test_accuracy", test.accuracy},
                               {"bytes_sent_per_step", traffic.bytes_sent / steps},
                               {"ratio_compressed_tensors", traffic.RatioCompressedTensors()},
                               {"ratio_whole_model", traffic.RatioWholeModel()},
                               {"ranks_agree", equal}};
      if (report.contains("policy")) result["policy"] = report.at("policy");
      WriteJson(arguments.json_file, result);
    }
    std::printf(
        "char_lm: %.3f bits per character on the test text, %.2f %% of its characters right; each rank sent "
        "%s, dense would be %s (%.1f times less)\n",
        test.bits, test.accuracy, FormatBytes(traffic.bytes_sent).c_str(),
        FormatBytes(traffic.dense_bytes).c_str(), traffic.RatioWholeModel());
    if (!equal) std::fprintf(stderr, "char_lm: the ranks ended with different parameters\n");
  }
  return equal ? 0 : 1;
}

}  // namespace
}  // namespace terse::examples

int main(int argc, char** argv) {
  terse::examples::Arguments arguments;
  CLI::App app("Trains a character language model on several MPI ranks.", "char_lm");
  terse::examples::AddOptions(&app, &arguments);
  return terse::examples::RunUnderMpi(argc, argv, &app, [&](const terse::examples::MpiSession& session) {
    return terse::examples::Main(arguments, session);
  });
}
