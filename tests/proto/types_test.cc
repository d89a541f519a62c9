// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/types.h"

#include "gtest/gtest.h"

namespace terse::wire {
namespace {

// The pinned numbers of docs/wire_format.md: a failure here means that old peers and files are misread.
TEST(Types, NumbersArePinned) {
  EXPECT_EQ(static_cast<int>(DType::kFloat32), 0);
  EXPECT_EQ(static_cast<int>(DType::kFloat64), 1);
  EXPECT_EQ(static_cast<int>(DType::kFloat16), 2);
  EXPECT_EQ(static_cast<int>(DType::kBFloat16), 3);
  const char* const codecs[] = {"none", "fp16", "bf16", "topk", "onebit", "quantize", "powersgd"};
  for (int i = 0; i < 7; ++i) EXPECT_EQ(Name(static_cast<Codec>(i)), codecs[i]);
  const char* const methods[] = {"allreduce", "dgc", "onebit_adam"};
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Name(static_cast<Method>(i)), methods[i]);
  const char* const exchanges[] = {
      "dense", "deterministic-dense", "all-gather", "scatter-reduce-all-gather", "sparse-reduce", "low-rank"};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Name(static_cast<Exchange>(i)), exchanges[i]);
  const char* const roles[] = {"own", "replicated", "shard"};
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Name(static_cast<MemoryRole>(i)), roles[i]);
}

TEST(Types, NamesOfEnumeratorsMatch) {
  EXPECT_EQ(Name(Codec::kNone), "none");
  EXPECT_EQ(Name(Codec::kBf16), "bf16");
  EXPECT_EQ(Name(Codec::kTopK), "topk");
  EXPECT_EQ(Name(Codec::kOneBit), "onebit");
  EXPECT_EQ(Name(Codec::kQuantize), "quantize");
  EXPECT_EQ(Name(Codec::kPowerSgd), "powersgd");
  EXPECT_EQ(Name(Method::kDgc), "dgc");
  EXPECT_EQ(Name(Method::kOneBitAdam), "onebit_adam");
  EXPECT_EQ(Name(Exchange::kDense), "dense");
  EXPECT_EQ(Name(Exchange::kAllGather), "all-gather");
  EXPECT_EQ(Name(Exchange::kScatterReduceAllGather), "scatter-reduce-all-gather");
  EXPECT_EQ(Name(Exchange::kLowRank), "low-rank");
  EXPECT_EQ(Name(DType::kFloat32), "float32");
  EXPECT_EQ(Name(DType::kBFloat16), "bfloat16");
}

TEST(Types, NumbersOutsideTheSetsHaveNoNameAndNoSize) {
  EXPECT_EQ(Name(static_cast<DType>(4)), "unknown");
  EXPECT_EQ(Name(static_cast<Codec>(7)), "unknown");
  EXPECT_EQ(Name(static_cast<Codec>(255)), "unknown");
  EXPECT_EQ(Name(static_cast<Method>(3)), "unknown");
  EXPECT_EQ(Name(static_cast<Exchange>(6)), "unknown");
  EXPECT_EQ(DTypeSize(static_cast<DType>(4)), 0u);
}

TEST(Types, ParsersInvertNames) {
  for (int i = 0; i < 7; ++i) {
    const auto codec = static_cast<Codec>(i);
    EXPECT_EQ(ParseCodec(Name(codec)), codec);
  }
  for (int i = 0; i < 3; ++i) {
    const auto method = static_cast<Method>(i);
    EXPECT_EQ(ParseMethod(Name(method)), method);
  }
}

TEST(Types, ParsersTakeNothingElse) {
  for (const char* name : {"", "TopK", "topk ", " topk", "top", "topkk", "unknown", "3"}) {
    EXPECT_EQ(ParseCodec(name), std::nullopt) << name;
    EXPECT_EQ(ParseMethod(name), std::nullopt) << name;
  }
}

TEST(Types, Sizes) {
  EXPECT_EQ(DTypeSize(DType::kFloat32), 4u);
  EXPECT_EQ(DTypeSize(DType::kFloat64), 8u);
  EXPECT_EQ(DTypeSize(DType::kFloat16), 2u);
  EXPECT_EQ(DTypeSize(DType::kBFloat16), 2u);
}

}  // namespace
}  // namespace terse::wire
