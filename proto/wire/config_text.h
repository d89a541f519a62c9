// SPDX-License-Identifier: Apache-2.0
//
// The table of configuration keys, written out for people.
#ifndef TERSE_PROTO_WIRE_CONFIG_TEXT_H_
#define TERSE_PROTO_WIRE_CONFIG_TEXT_H_

#include <string>

namespace terse::wire {

// For a terminal: per key its name, environment name, values, default and one line of help.
std::string ConfigHelp();

// The whole of docs/configuration.md. A test holds the file against it.
std::string ConfigMarkdown();

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_CONFIG_TEXT_H_
