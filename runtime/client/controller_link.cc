// SPDX-License-Identifier: Apache-2.0
#include "runtime/client/controller_link.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "transport/plugin_file.h"

namespace terse::client {

absl::StatusOr<std::unique_ptr<controller::Link>> OpenControllerLink(const wire::Config& config) {
  constexpr char kFile[] = "libterse_controller_grpc.so";
  const absl::StatusOr<void*> loaded = transport::LoadPlugin(kFile, controller::kLinkEntryName);
  if (!loaded.ok()) {
    return absl::Status(loaded.status().code(),
                        absl::StrCat("controller.address: ", loaded.status().message()));
  }
  const controller::LinkDescriptor* const descriptor = reinterpret_cast<controller::LinkEntry>(*loaded)();
  if (descriptor == nullptr || descriptor->abi != controller::kLinkAbi || descriptor->open == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("plug-in ", kFile, " has link ABI ", descriptor == nullptr ? 0 : descriptor->abi,
                     ", this Terse has ", controller::kLinkAbi, "; install that of the same release"));
  }
  absl::Status error;
  std::unique_ptr<controller::Link> link(descriptor->open(&config, &error));
  if (link != nullptr) return link;
  return error.ok() ? absl::InternalError(absl::StrCat("plug-in ", kFile, " opened no link")) : error;
}

}  // namespace terse::client
