// SPDX-License-Identifier: Apache-2.0
extern "C" __attribute__((visibility("default"))) int terse_something_else() { return 0; }
