// SPDX-License-Identifier: Apache-2.0
//
// Where plug-ins are, and how one is loaded: in TERSE_PLUGIN_PATH, beside libterse.so (or the program), in
// terse/ there, and in ../lib/terse, ../<libdir>/terse and ../lib of that. Thread-safe.
#ifndef TERSE_TRANSPORT_PLUGIN_FILE_H_
#define TERSE_TRANSPORT_PLUGIN_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace terse::transport {

// A name that can be part of a plug-in's: it cannot lead out of the folders that are searched.
bool IsPluginName(std::string_view name);

bool PluginExists(const std::string& file_name);

// What `entry` of the plug-in is; the library stays loaded, but for one without that entry. NOT_FOUND lists
// where it was looked for, FAILED_PRECONDITION says why it cannot be loaded.
absl::StatusOr<void*> LoadPlugin(const std::string& file_name, const char* entry);

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_PLUGIN_FILE_H_
