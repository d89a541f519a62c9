// SPDX-License-Identifier: Apache-2.0
//
// Any bits as gradients, through the encoders of every codec with error feedback. The first half of the
// floats is the gradient of one step, the second half that of the next; both repeated. Selection samples only
// long vectors, which cost a hundred times as much as others: few inputs ask for one.
#include <algorithm>
#include <cmath>
#include <vector>

#include "compressors/kernels/dispatch.h"
#include "gtest/gtest.h"
#include "tests/fuzz/codec_input.h"
#include "tests/fuzz/fuzz.h"

namespace terse::fuzz {
namespace {

using ::terse::testing::Bits;
using ::terse::testing::Tensor;

constexpr size_t kMostEncoded = 1024;
constexpr size_t kLong = 10240;  // half of it is more than the chunk of 4,096 elements and most samples

size_t Elements(const CodecInput& input, size_t given) {
  const bool is_long = input.repetitions == 7 && input.test_case.codec->codec() == wire::Codec::kTopK;
  if (is_long && given > 0) return kLong;
  return std::min(given << input.repetitions % 4 * 2, kMostEncoded);
}

std::vector<float> Gradient(const CodecInput& input, wire::Bytes bytes) {
  const size_t given = bytes.size() / sizeof(float);
  std::vector<float> gradient(Elements(input, given));
  for (size_t i = 0; i < gradient.size(); ++i) {
    gradient[i] = wire::Load<float>(bytes.data() + i % given * sizeof(float));
  }
  return gradient;
}

void EncodeStep(const CodecInput& input, const std::vector<float>& gradient, uint64_t step, Tensor& tensor,
                Tensor& scalar_tensor) {
  RandomKey random;
  random.step = step;
  const std::vector<float> c = terse::testing::Compensated(gradient, tensor.residual());
  const EncodeResult result = tensor.Encode(gradient, random);
  const bool nonfinite =
      std::any_of(gradient.begin(), gradient.end(), [](float x) { return !std::isfinite(x); });
  Require(result.nonfinite == nonfinite, "the encoder says whether the gradient was finite");
  const std::vector<float> decoded = tensor.Decoded();
  RequireNone(terse::testing::NotConserved(input.test_case, c, decoded, tensor.residual()));
  for (size_t i = 0; i < tensor.shards().size(); ++i) {
    const Shard& shard = tensor.shards()[i];
    RequireNone(
        terse::testing::BrokenPromise(input.test_case, tensor.payloads()[i], shard.end - shard.begin));
  }

  const kernels::ScopedKernelsForTest scalar(kernels::ScalarKernels());
  scalar_tensor.Encode(gradient, random);
  Require(tensor.payloads() == scalar_tensor.payloads(), "every target encodes the same bytes");
  Require(Bits(tensor.residual()) == Bits(scalar_tensor.residual()), "every target keeps the same residual");
}

}  // namespace
}  // namespace terse::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace terse::fuzz;             // NOLINT(google-build-using-namespace): of this function alone
  GTEST_FLAG_SET(throw_on_failure, true);  // the expectations of Tensor are promises here
  const std::optional<CodecInput> input = TakeCodec(AsBytes(data, size));
  if (!input) return 0;
  const size_t half = input->rest.size() / 8 * 4;  // whole floats
  const std::vector<float> first = Gradient(*input, input->rest.first(half));
  const std::vector<float> second = Gradient(*input, input->rest.subspan(half, half));
  terse::testing::Tensor tensor(input->test_case, first.size(), input->extent);
  terse::testing::Tensor scalar_tensor = tensor;
  EncodeStep(*input, first, 0, tensor, scalar_tensor);
  EncodeStep(*input, second, 1, tensor, scalar_tensor);
  return 0;
}
