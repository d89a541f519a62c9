// SPDX-License-Identifier: Apache-2.0
//
// Trains a network of three layers on Fashion-MNIST with plain MPI: each rank computes the gradient of its
// own images, MPI_Allreduce adds the ranks' gradients, and every rank takes the same step of SGD with
// momentum.
//
//   mpicxx -std=c++20 -O3 train.cc -lz -o train && mpirun -n 4 ./train
#include <mpi.h>
#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numbers>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// The matrix products are compiled for newer processors too; which one runs is chosen when the program
// starts.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

namespace {

constexpr int kPixels = 28 * 28;
constexpr int kClasses = 10;

const char* const kHelp =
    "usage: train [OPTIONS]\n"
    "\n"
    "Trains a network of three layers on Fashion-MNIST, on all ranks of an MPI job.\n"
    "\n"
    "  --epochs N         passes over the training images (default 4)\n"
    "  --steps N          end after N steps, with no validation before\n"
    "  --batch N          images of a rank in a step (default 8)\n"
    "  --hidden N         width of the two hidden layers (default 768)\n"
    "  --learning-rate R  at its highest: it grows for a twentieth of the steps, then falls to 0 along a\n"
    "                     cosine (default 0.02)\n"
    "  --momentum M       (default 0.9)\n"
    "  --seed N           of the first weights and of the order of the images (default 1)\n"
    "  --data FOLDER      the data set's four files (default /usr/share/datasets/fashion-mnist)\n"
    "  --save FILE        writes the parameters at the end: floats of this machine, layer by layer\n";

struct Options {
  int epochs = 4;
  int steps = 0;  // 0: epochs decide
  int batch = 8;
  int hidden = 768;
  int seed = 1;
  double learning_rate = 0.02;
  double momentum = 0.9;
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::string save;  // empty: nowhere
  bool help = false;
};

template <typename T>
T ParseNumber(std::string_view name, std::string_view text, T least, T most) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most)) {
    throw std::invalid_argument(std::string(name) + ": '" + std::string(text) +
                                "' is no number that it can be");
  }
  return value;
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--help" || name == "-h") {
      options.help = true;
      continue;
    }
    const std::string_view value = i + 1 < argc ? argv[++i] : "";
    if (name == "--epochs") {
      options.epochs = ParseNumber(name, value, 1, 10000);
    } else if (name == "--steps") {
      options.steps = ParseNumber(name, value, 1, 1 << 30);
    } else if (name == "--batch") {
      options.batch = ParseNumber(name, value, 1, 10000);
    } else if (name == "--hidden") {
      options.hidden = ParseNumber(name, value, 1, 16384);
    } else if (name == "--seed") {
      options.seed = ParseNumber(name, value, 0, 1 << 30);
    } else if (name == "--learning-rate") {
      options.learning_rate = ParseNumber(name, value, 0.0, 100.0);
    } else if (name == "--momentum") {
      options.momentum = ParseNumber(name, value, 0.0, 1.0);
    } else if (name == "--data") {
      options.data = value;
    } else if (name == "--save") {
      options.save = value;
    } else {
      throw std::invalid_argument("there is no option " + std::string(name) + "; see --help");
    }
  }
  return options;
}

// Data.

struct Images {
  std::vector<uint8_t> pixels;
  std::vector<uint8_t> labels;

  int count() const { return static_cast<int>(labels.size()); }
  // Mean 0 and deviation 1 over the training images.
  void Normalize(int image, float* to) const {
    const uint8_t* from = pixels.data() + static_cast<size_t>(image) * kPixels;
    for (int i = 0; i < kPixels; ++i) to[i] = (static_cast<float>(from[i]) / 255.0f - 0.2860f) / 0.3530f;
  }
};

// The bytes of an IDX file behind its header of `header` bytes; plain or gzipped.
std::vector<uint8_t> ReadIdx(const std::string& path, uint32_t magic, size_t header, size_t item_size) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) throw std::runtime_error(path + ": cannot be opened");
  std::vector<uint8_t> bytes(header + (size_t{1} << 26));  // more than the data set has
  const int got = gzread(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  if (gzclose_r(file) != Z_OK || got < static_cast<int>(header)) {
    throw std::runtime_error(path + ": cannot be read");
  }
  bytes.resize(static_cast<size_t>(got));
  const auto word = [&](size_t at) {
    return uint32_t{bytes[at]} << 24 | uint32_t{bytes[at + 1]} << 16 | uint32_t{bytes[at + 2]} << 8 |
           bytes[at + 3];
  };
  const bool shape_fits = header == 8 || (word(8) == 28 && word(12) == 28);
  if (word(0) != magic || !shape_fits || bytes.size() - header != size_t{word(4)} * item_size) {
    throw std::runtime_error(path + ": is not what it should be");
  }
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(header));
  return bytes;
}

Images ReadImages(const std::string& folder, const std::string& name) {
  Images images{ReadIdx(folder + "/" + name + "-images-idx3-ubyte.gz", 0x803, 16, kPixels),
                ReadIdx(folder + "/" + name + "-labels-idx1-ubyte.gz", 0x801, 8, 1)};
  if (images.labels.empty() || images.pixels.size() != images.labels.size() * kPixels ||
      *std::max_element(images.labels.begin(), images.labels.end()) >= kClasses) {
    throw std::runtime_error(folder + ": images and labels do not fit");
  }
  return images;
}

void Broadcast(std::vector<uint8_t>* bytes) {
  int size = static_cast<int>(bytes->size());
  MPI_Bcast(&size, 1, MPI_INT, 0, MPI_COMM_WORLD);
  bytes->resize(static_cast<size_t>(size));
  MPI_Bcast(bytes->data(), size, MPI_BYTE, 0, MPI_COMM_WORLD);
}

// Matrix products, of row-major matrices. Inner loops run along rows and have no sums across lanes, so that
// compilers vectorize them as they are.

// out = sums of 4 rows of m, `stride` apart, scaled by a; added to it where `add`.
inline __attribute__((always_inline)) void AddRows(const float* __restrict m, int stride, const float* a,
                                                   int rows, int columns, bool add, float* __restrict out) {
  if (rows == 4) {
    const float* __restrict m1 = m + stride;
    const float* __restrict m2 = m1 + stride;
    const float* __restrict m3 = m2 + stride;
    const float a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
    if (add) {
      for (int j = 0; j < columns; ++j) out[j] += a0 * m[j] + a1 * m1[j] + (a2 * m2[j] + a3 * m3[j]);
    } else {
      for (int j = 0; j < columns; ++j) out[j] = a0 * m[j] + a1 * m1[j] + (a2 * m2[j] + a3 * m3[j]);
    }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    for (int j = 0; j < columns; ++j) out[j] = (add || r > 0 ? out[j] : 0.0f) + a[r] * m[r * stride + j];
  }
}

// y (batch x out) += x (batch x in) w (in x out)
FOR_EVERY_PROCESSOR void MultiplyAdd(const float* x, const float* w, int batch, int in, int out, float* y) {
  for (int i = 0; i < in; i += 4) {
    for (int b = 0; b < batch; ++b) {
      AddRows(w + static_cast<size_t>(i) * out, out, x + b * in + i, std::min(4, in - i), out, true,
              y + b * out);
    }
  }
}

// dw (in x out) = transposed x (batch x in) dy (batch x out)
FOR_EVERY_PROCESSOR void MultiplyTransposed(const float* x, const float* dy, int batch, int in, int out,
                                            float* dw) {
  for (int i = 0; i < in; ++i) {
    for (int b = 0; b < batch; b += 4) {
      const int rows = std::min(4, batch - b);
      float a[4];
      for (int r = 0; r < rows; ++r) a[r] = x[(b + r) * in + i];
      AddRows(dy + b * out, out, a, rows, out, b > 0, dw + static_cast<size_t>(i) * out);
    }
  }
}

// dx (batch x in) = dy (batch x out) transposed w (in x out)
FOR_EVERY_PROCESSOR void MultiplyByTransposed(const float* dy, const float* w, int batch, int in, int out,
                                              float* dx) {
  constexpr int kLanes = 16;
  for (int i = 0; i < in; ++i) {
    const float* __restrict row = w + static_cast<size_t>(i) * out;
    for (int b = 0; b < batch; ++b) {
      const float* __restrict gradient = dy + b * out;
      float lanes[kLanes] = {};
      int j = 0;
      for (; j + kLanes <= out; j += kLanes) {
        for (int l = 0; l < kLanes; ++l) lanes[l] += gradient[j + l] * row[j + l];
      }
      float sum = 0;
      for (; j < out; ++j) sum += gradient[j] * row[j];
      for (const float lane : lanes) sum += lane;
      dx[b * in + i] = sum;
    }
  }
}

// The network.

// A fully connected layer. Weights (in x out) and biases lie behind each other, so that one exchange is
// enough for both.
struct Layer {
  int in, out;
  std::vector<float> parameters, gradient, velocity;

  Layer(int inputs, int outputs) : in(inputs), out(outputs) {
    const size_t size = (static_cast<size_t>(in) + 1) * static_cast<size_t>(out);
    parameters.resize(size);
    gradient.resize(size);
    velocity.resize(size);
  }
  size_t weights() const { return static_cast<size_t>(in) * static_cast<size_t>(out); }
};

class Network {
 public:
  Network(int hidden, int seed) {
    layers_.emplace_back(kPixels, hidden);
    layers_.emplace_back(hidden, hidden);
    layers_.emplace_back(hidden, kClasses);
    std::mt19937_64 random(static_cast<uint64_t>(seed));
    for (Layer& layer : layers_) {
      const double limit = std::sqrt(6.0 / layer.in);
      for (size_t i = 0; i < layer.weights(); ++i) {
        layer.parameters[i] =
            static_cast<float>(limit * (static_cast<double>(random() >> 11) * 0x1p-52 - 1.0));
      }
    }
  }

  std::vector<Layer>& layers() { return layers_; }
  size_t size() const {
    return layers_[0].parameters.size() + layers_[1].parameters.size() + layers_[2].parameters.size();
  }

  // Of `batch` images: the sum of their losses, and to *correct those that were recognised. The last outputs
  // become the loss's derivative, of the mean over the batch.
  double Forward(const float* x, const uint8_t* labels, int batch, int* correct) {
    values_.resize(layers_.size());
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Layer& layer = layers_[l];
      std::vector<float>& y = values_[l];
      y.resize(static_cast<size_t>(batch) * layer.out);
      for (int b = 0; b < batch; ++b) {
        std::copy_n(layer.parameters.data() + layer.weights(), layer.out, y.data() + b * layer.out);
      }
      MultiplyAdd(l == 0 ? x : values_[l - 1].data(), layer.parameters.data(), batch, layer.in, layer.out,
                  y.data());
      if (l + 1 < layers_.size()) {
        for (float& value : y) value = value > 0 ? value : 0;
      }
    }
    double loss = 0;
    for (int b = 0; b < batch; ++b)
      loss += Softmax(values_.back().data() + b * kClasses, labels[b], batch, correct);
    return loss;
  }

  // The gradients, after Forward with the same images.
  void Backward(const float* x, int batch) {
    for (size_t l = layers_.size(); l-- > 0;) {
      Layer& layer = layers_[l];
      const float* dy = values_[l].data();
      if (l > 0) {
        // Where the ReLU gave 0 its derivative is 0.
        derivative_.resize(static_cast<size_t>(batch) * layer.in);
        MultiplyByTransposed(dy, layer.parameters.data(), batch, layer.in, layer.out, derivative_.data());
        for (size_t i = 0; i < derivative_.size(); ++i) {
          if (values_[l - 1][i] <= 0) derivative_[i] = 0;
        }
      }
      MultiplyTransposed(l == 0 ? x : values_[l - 1].data(), dy, batch, layer.in, layer.out,
                         layer.gradient.data());
      float* biases = layer.gradient.data() + layer.weights();
      std::fill_n(biases, layer.out, 0.0f);
      for (int b = 0; b < batch; ++b) {
        for (int j = 0; j < layer.out; ++j) biases[j] += dy[b * layer.out + j];
      }
      if (l > 0) values_[l - 1].swap(derivative_);
    }
  }

 private:
  // Loss of one image; its outputs become the derivative.
  static double Softmax(float* outputs, int label, int batch, int* correct) {
    const float most = *std::max_element(outputs, outputs + kClasses);
    if (outputs[label] == most) ++*correct;
    double sum = 0;
    for (int c = 0; c < kClasses; ++c) sum += std::exp(static_cast<double>(outputs[c] - most));
    const double loss = std::log(sum) - static_cast<double>(outputs[label] - most);
    for (int c = 0; c < kClasses; ++c) {
      const double probability = std::exp(static_cast<double>(outputs[c] - most)) / sum;
      outputs[c] = static_cast<float>((probability - (c == label ? 1 : 0)) / batch);
    }
    return loss;
  }

  std::vector<Layer> layers_;
  std::vector<std::vector<float>> values_;  // of each layer: outputs, in the backward pass their derivatives
  std::vector<float> derivative_;
};

// Training.

struct Score {
  double loss = 0;
  double accuracy = 0;  // percent
};

class Trainer {
 public:
  explicit Trainer(const Options& options) : options_(options), network_(options.hidden, options.seed) {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks_);
    if (rank_ == 0) {
      train_ = ReadImages(options.data, "train");
      test_ = ReadImages(options.data, "t10k");
    }
    for (Images* images : {&train_, &test_}) {
      Broadcast(&images->pixels);
      Broadcast(&images->labels);
    }
    epoch_steps_ = train_.count() / (options.batch * ranks_);
    if (epoch_steps_ == 0) throw std::invalid_argument("--batch: there are not so many images");
    steps_ = options.steps > 0 ? options.steps : options.epochs * epoch_steps_;
    images_.resize(static_cast<size_t>(options.batch) * kPixels);
    labels_.resize(static_cast<size_t>(options.batch));
    order_.resize(static_cast<size_t>(train_.count()));
  }

  // Whether all ranks ended with the same parameters.
  bool Run() {
    Say("%zu parameters, %d ranks with %d images each, %d steps\n", network_.size(), ranks_, options_.batch,
        steps_);
    std::vector<double> times;
    Score sum;
    for (int step = 0; step < steps_; ++step) {
      if (step % epoch_steps_ == 0) Shuffle(step / epoch_steps_);
      const double begin = MPI_Wtime();
      const Score score = Step(step);
      times.push_back(MPI_Wtime() - begin);
      sum.loss += score.loss;
      sum.accuracy += score.accuracy;
      const bool last = step + 1 == steps_;
      if (options_.steps == 0 ? (step + 1) % epoch_steps_ == 0 : last) {
        const int steps = options_.steps == 0 ? epoch_steps_ : steps_;
        const Score test = Validate();
        Say("step %d: loss %.4f, accuracy %.2f %%; test loss %.4f, test accuracy %.2f %%\n", step + 1,
            sum.loss / steps, sum.accuracy / steps, test.loss, test.accuracy);
        sum = {};
      }
    }
    const double total = std::accumulate(times.begin(), times.end(), 0.0);
    std::nth_element(times.begin(), times.begin() + steps_ / 2, times.end());
    Say("%.2f steps/s, median step %.3f ms, %.1f %% of the time in MPI_Allreduce\n", steps_ / total,
        times[static_cast<size_t>(steps_ / 2)] * 1e3, 100 * exchanging_ / total);
    const bool equal = RanksAgree();
    Say("the ranks' parameters are %s\n", equal ? "equal" : "NOT equal");
    if (rank_ == 0 && !options_.save.empty()) Save();
    return equal;
  }

 private:
  // The order of the images in an epoch: the same on all ranks, each of which takes its slice of every step.
  void Shuffle(int epoch) {
    std::iota(order_.begin(), order_.end(), 0);
    std::seed_seq seeds{options_.seed, epoch};
    std::mt19937_64 random(seeds);
    for (size_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[random() % (i + 1)]);
  }

  double LearningRate(int step) const {
    const int warmup = std::max(1, steps_ / 20);
    if (step < warmup) return options_.learning_rate * (step + 1) / warmup;
    return options_.learning_rate * 0.5 *
           (1 + std::cos(std::numbers::pi * (step - warmup) / std::max(1, steps_ - warmup)));
  }

  void Allreduce(void* values, size_t count, MPI_Datatype type) {
    const double begin = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, values, static_cast<int>(count), type, MPI_SUM, MPI_COMM_WORLD);
    exchanging_ += MPI_Wtime() - begin;
  }

  Score Step(int step) {
    const int first = (step % epoch_steps_) * options_.batch * ranks_ + rank_ * options_.batch;
    for (int b = 0; b < options_.batch; ++b) {
      const int image = order_[first + b];
      train_.Normalize(image, images_.data() + static_cast<size_t>(b) * kPixels);
      labels_[static_cast<size_t>(b)] = train_.labels[static_cast<size_t>(image)];
    }
    int counts[2] = {0, options_.batch};
    double loss = network_.Forward(images_.data(), labels_.data(), options_.batch, &counts[0]);
    network_.Backward(images_.data(), options_.batch);
    const float rate = static_cast<float>(LearningRate(step));
    const float momentum = static_cast<float>(options_.momentum);
    const float share = 1.0f / static_cast<float>(ranks_);
    for (Layer& layer : network_.layers()) {
      Allreduce(layer.gradient.data(), layer.gradient.size(), MPI_FLOAT);
      float* __restrict v = layer.velocity.data();
      float* __restrict w = layer.parameters.data();
      const float* __restrict g = layer.gradient.data();
      for (size_t i = 0; i < layer.gradient.size(); ++i) {
        v[i] = momentum * v[i] + share * g[i];
        w[i] -= rate * v[i];
      }
    }
    Allreduce(&loss, 1, MPI_DOUBLE);
    Allreduce(counts, 2, MPI_INT);
    return {loss / counts[1], 100.0 * counts[0] / counts[1]};
  }

  // On the test images, of which each rank takes its part.
  Score Validate() {
    constexpr int kChunk = 32;
    std::vector<float> images(static_cast<size_t>(kChunk) * kPixels);
    double loss = 0;
    int counts[2] = {0, 0};
    const int end = static_cast<int>(int64_t{test_.count()} * (rank_ + 1) / ranks_);
    for (int at = static_cast<int>(int64_t{test_.count()} * rank_ / ranks_); at < end; at += kChunk) {
      const int batch = std::min(kChunk, end - at);
      for (int b = 0; b < batch; ++b)
        test_.Normalize(at + b, images.data() + static_cast<size_t>(b) * kPixels);
      loss += network_.Forward(images.data(), test_.labels.data() + at, batch, &counts[0]);
      counts[1] += batch;
    }
    MPI_Allreduce(MPI_IN_PLACE, &loss, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, counts, 2, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    return {loss / counts[1], 100.0 * counts[0] / counts[1]};
  }

  bool RanksAgree() {
    uint64_t hash = 14695981039346656037u;  // FNV-1a
    for (const Layer& layer : network_.layers()) {
      for (const float value : layer.parameters) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
      }
    }
    // The largest hash, and what is left of the smallest.
    uint64_t ends[2] = {hash, ~hash};
    MPI_Allreduce(MPI_IN_PLACE, ends, 2, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
    return ends[0] == ~ends[1];
  }

  void Save() {
    std::ofstream file(options_.save, std::ios::binary);
    for (const Layer& layer : network_.layers()) {
      file.write(reinterpret_cast<const char*>(layer.parameters.data()),
                 static_cast<std::streamsize>(layer.parameters.size() * sizeof(float)));
    }
    file.close();
    if (!file) throw std::runtime_error(options_.save + ": cannot be written");
  }

  template <typename... Values>
  void Say(const char* format, Values... values) const {
    if (rank_ != 0) return;
    std::printf(format, values...);
    std::fflush(stdout);
  }

  const Options options_;
  int rank_ = 0, ranks_ = 1;
  Network network_;
  Images train_, test_;
  int epoch_steps_ = 0, steps_ = 0;
  std::vector<int> order_;
  std::vector<float> images_;    // of a step
  std::vector<uint8_t> labels_;  // of a step
  double exchanging_ = 0;        // seconds
};

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, status = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  Options options;
  try {
    options = ParseOptions(argc, argv);
    if (options.help && rank == 0) std::fputs(kHelp, stdout);
  } catch (const std::invalid_argument& error) {
    // All ranks have the same arguments; one of them says what is wrong.
    if (rank == 0) std::fprintf(stderr, "train: %s\n", error.what());
    MPI_Finalize();
    return 2;
  }
  try {
    if (!options.help) status = Trainer(options).Run() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train: rank %d: %s\n", rank, error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return status;
}
