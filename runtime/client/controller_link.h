// SPDX-License-Identifier: Apache-2.0
#ifndef TERSE_RUNTIME_CLIENT_CONTROLLER_LINK_H_
#define TERSE_RUNTIME_CLIENT_CONTROLLER_LINK_H_

#include <memory>

#include "absl/status/statusor.h"
#include "proto/wire/config.h"
#include "runtime/controller/link/link.h"

namespace terse::client {

// The link to config.controller.address, by the plug-in libterse_controller_grpc.so. NOT_FOUND and
// FAILED_PRECONDITION say where it was looked for, or what is wrong with it.
absl::StatusOr<std::unique_ptr<controller::Link>> OpenControllerLink(const wire::Config& config);

}  // namespace terse::client

#endif  // TERSE_RUNTIME_CLIENT_CONTROLLER_LINK_H_
