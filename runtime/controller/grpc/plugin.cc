// SPDX-License-Identifier: Apache-2.0
//
// The entry point of libterse_controller_grpc.so.
#include <utility>

#include "runtime/controller/grpc/grpc_link.h"
#include "runtime/controller/link/link.h"

namespace {

terse::controller::Link* Open(const terse::wire::Config* config, absl::Status* error) {
  absl::StatusOr<std::unique_ptr<terse::controller::GrpcLink>> link =
      terse::controller::GrpcLink::Open(*config);
  if (link.ok()) return link->release();
  *error = link.status();
  return nullptr;
}

constexpr terse::controller::LinkDescriptor kDescriptor = {
    .abi = terse::controller::kLinkAbi, .build = TERSE_VERSION, .open = Open};

}  // namespace

extern "C" __attribute__((visibility("default"))) const terse::controller::LinkDescriptor*
terse_controller_link_v1() {
  return &kDescriptor;
}
