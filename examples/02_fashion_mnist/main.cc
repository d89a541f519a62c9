// SPDX-License-Identifier: Apache-2.0
//
// Trains a network on Fashion-MNIST on several MPI ranks; see README.md.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/02_fashion_mnist/dataset.h"
#include "examples/02_fashion_mnist/runs.h"
#include "examples/02_fashion_mnist/trainer.h"
#include "examples/common/files.h"

namespace terse::examples {
namespace {

struct Arguments {
  TrainingOptions training;
  std::string run = "sgd";
  std::string config_file;
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::string json_file;
  double epochs = 4;
  double learning_rate = 0;  // 0: the run's own
  bool quiet = false;
};

void AddOptions(CLI::App* app, Arguments* arguments) {
  TrainingOptions& training = arguments->training;
  const std::map<std::string, ProgressStyle> styles = {{"auto", ProgressStyle::kAuto},
                                                       {"bar", ProgressStyle::kBar},
                                                       {"lines", ProgressStyle::kLines},
                                                       {"none", ProgressStyle::kNone}};
  training.network = "cnn";
  app->add_option("--network", training.network, "network to train")
      ->check(CLI::IsMember({"lenet", "cnn"}))
      ->capture_default_str();
  app->add_option("--run", arguments->run, "how gradients are exchanged and applied")
      ->check(CLI::IsMember(RunNames()))
      ->capture_default_str();
  app->add_option("--config", arguments->config_file,
                  "YAML file with a Terse configuration to use instead of the run's own")
      ->check(CLI::ExistingFile);
  app->add_option("--seed", training.seed, "of the initial weights and of the order of the data")
      ->capture_default_str();
  CLI::Option* epochs = app->add_option("--epochs", arguments->epochs, "passes over the training data")
                            ->check(CLI::Range(0.001, 10000.0))
                            ->capture_default_str();
  app->add_option("--steps", training.steps, "optimizer steps, instead of --epochs")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->excludes(epochs);
  app->add_option("--batch", training.batch_per_rank, "images per rank and step")
      ->check(CLI::Range(int64_t{1}, int64_t{60000}))
      ->capture_default_str();
  app->add_option("--learning-rate", arguments->learning_rate, "peak, instead of the run's own")
      ->check(CLI::PositiveNumber);
  app->add_option("--evaluations", training.evaluations, "times that the test accuracy is measured")
      ->check(CLI::Range(int64_t{1}, int64_t{100}))
      ->capture_default_str();
  app->add_option("--data", arguments->data, "folder of the Fashion-MNIST files")->capture_default_str();
  app->add_option("--json", arguments->json_file, "file to write the results to");
  app->add_option("--progress", training.progress, "auto, bar, lines or none (mpirun hides the terminal)")
      ->transform(CLI::CheckedTransformer(styles));
  AddRecordOptions(app, &training.record);
  app->add_flag("--quiet", arguments->quiet, "no progress and no summary");
}

nlohmann::json CurveJson(const std::vector<CurvePoint>& curve) {
  nlohmann::json points = nlohmann::json::array();
  for (const CurvePoint& point : curve) {
    nlohmann::json row = {{"step", point.step}, {"bytes", point.bytes}, {"loss", point.loss}};
    if (point.accuracy >= 0) {
      row["accuracy"] = point.accuracy;
      row["test_loss"] = point.test_loss;
    }
    points.push_back(row);
  }
  return points;
}

// Bytes and times are per step and the mean over the ranks.
nlohmann::json TrafficJson(const Traffic& traffic, int64_t steps) {
  const auto per_step = [steps](double total) {
    return total / static_cast<double>(std::max<int64_t>(1, steps));
  };
  return {{"bytes_sent_per_step", per_step(traffic.bytes_sent)},
          {"dense_bytes_per_step", per_step(traffic.dense_bytes)},
          {"ratio_compressed_tensors", traffic.RatioCompressedTensors()},
          {"ratio_whole_model", traffic.RatioWholeModel()},
          {"encode_ms", per_step(traffic.encode_ms)},
          {"exchange_ms", per_step(traffic.exchange_ms)},
          {"decode_ms", per_step(traffic.decode_ms)}};
}

nlohmann::json ResultJson(const Arguments& arguments, const Run& run, const TrainingResult& result,
                          const MpiSession& session) {
  const TrainingOptions& training = arguments.training;
  nlohmann::json json = TrafficJson(result.traffic, training.steps);
  const nlohmann::json group = nlohmann::json::parse(result.group_report);
  json["name"] = run.name;
  json["method"] = group.at("method");
  json["compressor"] = group.at("compressor");
  json["network"] = training.network;
  json["parameters"] = result.parameters;
  json["ranks"] = session.size();
  json["batch_per_rank"] = training.batch_per_rank;
  json["learning_rate"] = run.learning_rate;
  json["config"] = run.config;
  json["seed"] = training.seed;
  json["steps"] = training.steps;
  json["test_accuracy"] = result.test_accuracy;
  json["test_loss"] = result.test_loss;
  json["step_ms"] = result.step_ms;
  for (const uint64_t hash : result.parameter_hashes) {
    std::array<char, 17> text;
    std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
    json["parameter_hash"].push_back(text.data());
  }
  const int64_t warmup = std::min(run.warmup_steps, training.steps);
  json["after_warmup"] = TrafficJson(result.steady_traffic, training.steps - warmup);
  json["after_warmup"]["from_step"] = warmup;
  json["curve"] = CurveJson(result.curve);
  json["tensors"] = group.at("tensors");
  if (group.contains("policy")) json["policy"] = group.at("policy");
  return json;
}

int Main(Arguments arguments, const MpiSession& session) {
  TrainingOptions& training = arguments.training;
  if (arguments.quiet) training.progress = ProgressStyle::kNone;
  const FashionMnist data = LoadFashionMnist(arguments.data, session);
  const int64_t steps_per_epoch =
      std::max<int64_t>(1, data.train.count() / (training.batch_per_rank * session.size()));
  if (training.steps == 0) {
    training.steps =
        std::max<int64_t>(1, std::llround(arguments.epochs * static_cast<double>(steps_per_epoch)));
  }

  Run run = MakeRun(arguments.run, training.network, training.steps, steps_per_epoch);
  if (arguments.learning_rate > 0) run.learning_rate = arguments.learning_rate;
  if (!arguments.config_file.empty()) {
    run.config = ReadTextFile(arguments.config_file);
    run.warmup_steps = 0;  // unknown, so the whole run counts
  }

  const TrainingResult result = Train(training, run, data, session);
  const std::vector<uint64_t>& hashes = result.parameter_hashes;
  const bool equal = std::all_of(hashes.begin(), hashes.end(), [&](uint64_t h) { return h == hashes[0]; });
  if (session.is_root()) {
    if (!arguments.json_file.empty())
      WriteJson(arguments.json_file, ResultJson(arguments, run, result, session));
    if (!arguments.quiet) {
      std::printf("%s: test accuracy %.2f %%, %s sent per rank and step (dense: %s), %.1f ms a step\n",
                  run.name.c_str(), result.test_accuracy,
                  FormatBytes(result.traffic.bytes_sent / static_cast<double>(training.steps)).c_str(),
                  FormatBytes(result.traffic.dense_bytes / static_cast<double>(training.steps)).c_str(),
                  result.step_ms);
    }
    if (!equal) std::fprintf(stderr, "fashion_mnist: the ranks ended with different parameters\n");
  }
  return equal ? 0 : 1;
}

}  // namespace
}  // namespace terse::examples

int main(int argc, char** argv) {
  terse::examples::Arguments arguments;
  CLI::App app("Trains a network on Fashion-MNIST on several MPI ranks.", "fashion_mnist");
  terse::examples::AddOptions(&app, &arguments);
  return terse::examples::RunUnderMpi(argc, argv, &app, [&](const terse::examples::MpiSession& session) {
    return terse::examples::Main(arguments, session);
  });
}
