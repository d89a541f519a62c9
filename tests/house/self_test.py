#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The checks of the house find what they are for: each test plants one fault in a small sound tree."""

import sys
import tempfile
import unittest
from pathlib import Path

import files
import layers

TABLE = """
| layer | unit | may include | libraries |
|---|---|---|---|
| 0 | `proto/wire` | | Abseil |
| 0 | `runtime/client/include/terse` | | |
| 0 | `runtime/client/include/terse/terse_mpi.h` | | MPI |
| 1 | `transport` | `proto/wire` | Abseil, POSIX |
| 2 | `transport/mpi` | `proto/wire`, `transport/transport.h` | Abseil, MPI |
| 4 | `runtime/client` | `transport`, `runtime/client/include/terse` | yaml-cpp |
| 6 | `tests` | anything | anything |
"""

SOUND = {
    "docs/architecture.md": TABLE,
    "proto/wire/bytes.h": '#include <cstdint>\n#include "absl/types/span.h"\n',
    "proto/wire/bytes.cc": '#include "proto/wire/bytes.h"\n',
    "transport/transport.h": '#include "proto/wire/bytes.h"\n',
    "transport/loader.h": '#include "transport/transport.h"\n',
    "transport/loader.cc": '#include "transport/loader.h"\n#include <dlfcn.h>\n#include <errno.h>\n',
    "transport/mpi/mpi.h": '#include <mpi.h>\n#include "transport/transport.h"\n',
    "runtime/client/include/terse/terse.h": "#include <stdint.h>\n",
    "runtime/client/include/terse/terse_mpi.h": "#include <mpi.h>\n",
    "runtime/client/api.cc": '#include <terse/terse.h>\n#include <yaml-cpp/yaml.h>\n#include "transport/loader.h"\n',
    "tests/any_test.cc": '#include <mpi.h>\n#include "gtest/gtest.h"\n#include "runtime/client/api.cc"\n',
}


class TreeTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for path, text in SOUND.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def assert_one(self, problems: list, path: str, line: int, word: str) -> None:
        self.assertEqual(len(problems), 1, problems)
        self.assertEqual((problems[0].path, problems[0].line), (path, line))
        self.assertIn(word, problems[0].text)


class LayersTest(TreeTest):
    def test_sound_tree_passes(self) -> None:
        self.assertEqual(layers.check(self.root), [])

    def planted(self, path: str, include: str, word: str) -> None:
        self.write(path, f"// one line above\n{include}\n")
        self.assert_one(layers.check(self.root), path, 2, word)

    def test_upwards(self) -> None:
        self.planted("proto/wire/bad.h", '#include "transport/transport.h"', "may not include 'transport'")

    def test_sibling(self) -> None:
        self.planted("proto/wire/bad.cc", "#include <terse/terse.h>", "runtime/client/include/terse")

    def test_down_but_not_named(self) -> None:
        self.planted("runtime/client/bad.cc", '#include "proto/wire/bytes.h"', "may not include 'proto/wire'")

    def test_file_of_a_unit_that_names_one_file_only(self) -> None:
        self.planted("transport/mpi/bad.cc", '#include "transport/loader.h"', "may not include 'transport'")

    def test_unit_inside_a_named_folder(self) -> None:
        self.planted("runtime/client/bad.cc", '#include "transport/mpi/mpi.h"', "may not include 'transport/mpi'")

    def test_row_of_one_file_is_not_its_folder(self) -> None:
        self.planted("runtime/client/bad.cc", "#include <terse/terse_mpi.h>", "terse_mpi.h'")

    def test_library_of_another_unit(self) -> None:
        self.planted("proto/wire/bad.cc", '  #  include "yaml-cpp/yaml.h"', "may not use yaml-cpp")
        self.write("proto/wire/bad.cc", "")
        self.planted("runtime/client/include/terse/bad.h", "#include <mpi.h>", "may not use MPI")
        self.write("runtime/client/include/terse/bad.h", "")
        self.planted("proto/wire/bad.cc", "#include <sys/socket.h>", "may not use POSIX")

    def test_library_that_nobody_has_named(self) -> None:
        self.planted("tests/bad.cc", "#include <fancy/fancy.h>", "LIBRARIES")

    def test_path_that_is_not_from_the_root(self) -> None:
        self.planted("transport/bad.cc", '#include "loader.h"', "by path from its root")

    def test_file_outside_all_units(self) -> None:
        self.write("attic/old.cc", "int x;\n")
        self.assert_one(layers.check(self.root), "attic/old.cc", 1, "no unit")

    def test_table_that_points_upwards(self) -> None:
        self.write("docs/architecture.md", TABLE.replace("| 1 | `transport` | `proto/wire` |", "| 1 | `transport` | `tests` |"))
        self.assert_one(layers.check(self.root), "docs/architecture.md", 7, "not below")

    def test_table_with_an_unknown_library(self) -> None:
        self.write("docs/architecture.md", TABLE.replace("Abseil, POSIX", "Abseil, Possix"))
        self.assert_one(layers.check(self.root), "docs/architecture.md", 7, "Possix")

    def test_no_table(self) -> None:
        self.write("docs/architecture.md", "# Architecture\n")
        self.assert_one(layers.check(self.root), "docs/architecture.md", 1, "no layer table")


class FilesTest(TreeTest):
    def test_lengths(self) -> None:
        self.write("a.h", "\n" * files.HEADER_LINES)
        self.write("a.cc", "\n" * files.SOURCE_LINES)
        self.assertEqual(files.lengths(self.root), [])
        self.write("a.h", "\n" * (files.HEADER_LINES + 1))
        self.assert_one(files.lengths(self.root), "a.h", files.HEADER_LINES + 1, "limit")
        self.write("a.h", "")
        self.write("a.cc", "\n" * (files.SOURCE_LINES + 1))
        self.assert_one(files.lengths(self.root), "a.cc", files.SOURCE_LINES + 1, "limit")

    def test_licences(self) -> None:
        for path in SOUND:
            (self.root / path).unlink()
        licence = f"# {files.LICENCE}\n"
        self.write("CMakeLists.txt", licence)
        self.write("run", "#!/bin/sh\n" + licence)
        self.write("LICENSE", "text\n")
        self.assertEqual(files.licences(self.root), [])
        for path, text in (("a.cc", "int x;\n"), ("b.py", ""), ("script", "#!/bin/sh\necho\n"), ("c.h", "\n" + licence)):
            self.write(path, text)
            self.assert_one(files.licences(self.root), path, 1, "first line")
            (self.root / path).unlink()

    def test_links(self) -> None:
        self.write("README.md", "[a](docs/architecture.md#here) [b](https://x.example/y) [c](#top)\n```\n[d](no)\n```\n")
        self.assertEqual(files.links(self.root), [])
        self.write("docs/more.md", "see\n[a](architecture.md) and [b](../docs/none.md#x)\n")
        self.assert_one(files.links(self.root), "docs/more.md", 2, "none.md")

    def test_mentions(self) -> None:
        self.write("docs/decisions/0001-first.md", "")
        self.write("a.cc", "// docs/architecture.md, docs/decisions/0001 and docs/decisions.\n")
        self.assertEqual(files.links(self.root), [])
        self.write("a.h", "//\n// Keys are described in docs/none.md.\n")
        self.assert_one(files.links(self.root), "a.h", 2, "docs/none.md")

    def test_tests_that_a_document_names(self) -> None:
        self.write("tests/a_test.cc", "TEST(One, Holds) {}\nTEST_P(Two, Holds) {}\n")
        self.write("docs/more.md", "`tests/a_test.cc` `One.Holds`, `Two.Holds`\n`Other.Word`\n")
        self.assertEqual(files.links(self.root), [])
        self.write("docs/more.md", "\n`tests/a_test.cc` `One.Hold`\n")
        self.assert_one(files.links(self.root), "docs/more.md", 2, "One.Hold")
        self.write("docs/more.md", "`tests/b_test.cc` `One.Holds`\n")
        self.assert_one(files.links(self.root), "docs/more.md", 1, "b_test.cc")

    def test_what_was_built_is_not_checked(self) -> None:
        self.write("build/release/generated.cc", "int x;\n" * 1000)
        self.write("build-old/generated.cc", "int x;\n" * 1000)
        self.assertEqual(files.lengths(self.root), [])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
