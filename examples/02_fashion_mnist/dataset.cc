// SPDX-License-Identifier: Apache-2.0
#include "examples/02_fashion_mnist/dataset.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>

#include "examples/common/idx_file.h"

namespace terse::examples {
namespace {

// Mean and standard deviation of the training pixels, scaled to [0, 1].
constexpr float kPixelMean = 0.2860f;
constexpr float kPixelDeviation = 0.3530f;

ImageSet ReadImageSet(const std::string& folder, const std::string& prefix) {
  const std::string images_path = folder + "/" + prefix + "-images-idx3-ubyte.gz";
  const std::string labels_path = folder + "/" + prefix + "-labels-idx1-ubyte.gz";
  IdxArray images = ReadIdxFile(images_path, 3);
  IdxArray labels = ReadIdxFile(labels_path, 1);
  if (images.shape[1] != kImageSide || images.shape[2] != kImageSide) {
    throw std::runtime_error(images_path + ": holds images of " + std::to_string(images.shape[1]) + " x " +
                             std::to_string(images.shape[2]) + " pixels, expected 28 x 28");
  }
  if (images.shape[0] != labels.shape[0]) {
    throw std::runtime_error(images_path + ": holds " + std::to_string(images.shape[0]) + " images, but " +
                             labels_path + " holds " + std::to_string(labels.shape[0]) + " labels");
  }
  if (*std::max_element(labels.values.begin(), labels.values.end()) >= kClasses) {
    throw std::runtime_error(labels_path + ": holds a label that is not below 10");
  }
  return {std::move(images.values), std::move(labels.values)};
}

void BroadcastFromRoot(const MpiSession& session, std::vector<uint8_t>* bytes) {
  uint64_t size = bytes->size();
  session.BroadcastFromRoot(&size, sizeof size);
  bytes->resize(size);
  session.BroadcastFromRoot(bytes->data(), size);
}

}  // namespace

void ImageSet::CopyNormalized(int64_t index, float* to) const {
  constexpr float kScale = 1.0f / (255.0f * kPixelDeviation);
  constexpr float kShift = kPixelMean / kPixelDeviation;
  const uint8_t* from = pixels.data() + index * kImagePixels;
  for (int64_t i = 0; i < kImagePixels; ++i) to[i] = static_cast<float>(from[i]) * kScale - kShift;
}

FashionMnist LoadFashionMnist(const std::string& folder, const MpiSession& session) {
  FashionMnist data;
  if (session.is_root()) {
    data.train = ReadImageSet(folder, "train");
    data.test = ReadImageSet(folder, "t10k");
  }
  for (ImageSet* set : {&data.train, &data.test}) {
    BroadcastFromRoot(session, &set->pixels);
    BroadcastFromRoot(session, &set->labels);
  }
  return data;
}

EpochSampler::EpochSampler(int64_t images, int64_t batch_per_rank, int rank, int ranks, uint64_t seed)
    : batch_per_rank_(batch_per_rank),
      global_batch_(batch_per_rank * ranks),
      rank_(rank),
      seed_(seed),
      steps_per_epoch_(images / global_batch_),
      order_(images) {
  if (steps_per_epoch_ == 0) {
    throw std::invalid_argument("a global batch of " + std::to_string(global_batch_) + " is more than the " +
                                std::to_string(images) + " images there are");
  }
}

std::vector<int64_t> EpochSampler::Batch(int64_t step) {
  if (step / steps_per_epoch_ != epoch_) Shuffle(step / steps_per_epoch_);
  const auto first = order_.begin() + (step % steps_per_epoch_) * global_batch_ + rank_ * batch_per_rank_;
  return {first, first + batch_per_rank_};
}

void EpochSampler::Shuffle(int64_t epoch) {
  epoch_ = epoch;
  std::iota(order_.begin(), order_.end(), 0);
  std::seed_seq seeds{static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32),
                      static_cast<uint32_t>(epoch)};
  std::mt19937_64 random(seeds);
  // Written out because std::shuffle's result is left to each standard library.
  for (size_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[random() % (i + 1)]);
}

}  // namespace terse::examples
