// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/exit_code.h"

namespace terse::cli {

ExitCode FromStatus(terse_status_t status) {
  switch (status) {
    case TERSE_OK:
      return kSuccess;
    case TERSE_CONFIG_INVALID:
    case TERSE_NOT_FOUND:
      return kConfigInvalid;
    case TERSE_UNAVAILABLE:
    case TERSE_TIMEOUT:
      return kCannotReach;
    default:
      return kFailure;
  }
}

}  // namespace terse::cli
