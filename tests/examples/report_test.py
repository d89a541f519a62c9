#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of the quickstart's report on made-up runs whose numbers are easy to check by hand."""
import contextlib
import copy
import html.parser
import io
import json
import pathlib
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "examples" / "02_fashion_mnist"))
import report  # noqa: E402

# Every key that the report promises for each run.
PROMISED = {"name", "method", "compressor", "seed", "steps", "test_accuracy", "bytes_sent_per_step",
            "dense_bytes_per_step", "ratio_compressed_tensors", "ratio_whole_model", "encode_ms", "exchange_ms",
            "decode_ms", "step_ms", "parameter_hash"}


def make_run(name, accuracy, sent=1_000_000, step_ms=20.0, warmup=0):
    phase = {"from_step": warmup, "bytes_sent_per_step": sent / 2 if warmup else sent,
             "ratio_compressed_tensors": 20.0, "ratio_whole_model": 2e6 / sent if warmup else 1e6 / sent,
             "encode_ms": 1.0, "decode_ms": 0.5}
    return {"name": name, "method": "allreduce", "compressor": "none", "network": "lenet", "seed": 1, "steps": 100,
            "test_accuracy": accuracy, "bytes_sent_per_step": sent, "dense_bytes_per_step": 1_000_000,
            "ratio_compressed_tensors": 10.0, "ratio_whole_model": 1e6 / sent, "encode_ms": 1.0, "exchange_ms": 2.0,
            "decode_ms": 0.5, "step_ms": step_ms, "parameters": 61706, "ranks": 2, "batch_per_rank": 32,
            "parameter_hash": ["0123456789abcdef"] * 2, "config": "method: allreduce\n", "after_warmup": phase,
            "curve": [{"step": 50, "bytes": 50 * sent, "loss": 0.5, "accuracy": accuracy - 1},
                      {"step": 100, "bytes": 100 * sent, "loss": 0.25, "accuracy": accuracy}]}


def six_runs():
    return {"sgd": make_run("sgd", 90.0), "topk": make_run("topk", 89.5, sent=100_000),
            "dgc": make_run("dgc", 90.25, sent=200_000, warmup=20), "quantize": make_run("quantize", 90.0, sent=125_000),
            "adam": make_run("adam", 88.0), "onebit_adam": make_run("onebit_adam", 88.5, sent=250_000, warmup=20)}


class StrictParser(html.parser.HTMLParser):
    """Fails on tags that are not closed in order and on anything fetched from elsewhere."""

    VOID = {"meta", "br", "link", "img", "input"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href"):
                raise AssertionError(f"<{tag} {key}={value}> fetches something")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> closes nothing")


class ReportTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)

    def write(self, runs):
        paths = []
        for name, run in runs.items():
            path = self.root / f"{name}.json"
            path.write_text(run if isinstance(run, str) else json.dumps(run), encoding="utf-8")
            paths.append(str(path))
        return paths

    def run_main(self, runs, *options):
        """Exit status, stdout and stderr of the program."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = report.main(self.write(runs) + ["--output", str(self.root / "out"), *options])
        return status, out.getvalue(), err.getvalue()

    def assert_refused(self, runs, *words):
        status, _, err = self.run_main(runs)
        self.assertEqual(status, 1)
        for word in words:
            self.assertIn(word, err)
        self.assertFalse((self.root / "out" / "report.json").exists())

    def test_writes_all_promised_keys_in_order(self):
        status, out, _ = self.run_main(dict(reversed(six_runs().items())))
        self.assertEqual(status, 0)
        written = json.loads((self.root / "out" / "report.json").read_text(encoding="utf-8"))
        self.assertEqual([run["name"] for run in written["runs"]],
                         ["sgd", "topk", "dgc", "quantize", "adam", "onebit_adam"])
        for run in written["runs"]:
            self.assertLessEqual(PROMISED, run.keys())
        self.assertIn("onebit_adam", out)

    def test_shows_what_was_measured_between_hosts(self):
        row = {"rate": "1gbit", "hosts": 4, "elements": 25600000, "transport": "mpi", "name": "onebit",
               "exchange_ms": 64.0, "encode_ms": 20.0, "decode_ms": 10.0, "ring_ms": 1280.0, "default_ms": 1600.0,
               "gloo_ms": None}
        links = self.root / "links"
        links.write_text(json.dumps([row]), encoding="utf-8")
        status, out, _ = self.run_main(six_runs(), "--links", str(links))
        self.assertEqual(status, 0)
        self.assertIn("20.0x", out)
        self.assertIn("25.0x", out)
        self.assertEqual(json.loads((self.root / "out" / "report.json").read_text(encoding="utf-8"))["links"], [row])
        page = (self.root / "out" / "report.html").read_text(encoding="utf-8")
        self.assertIn("20.0\u00d7", page)
        status, out, _ = self.run_main(six_runs())
        self.assertEqual(json.loads((self.root / "out" / "report.json").read_text(encoding="utf-8"))["links"], [])
        self.assertIn("was not measured", out)
        for bad in ("", "{}", "[]", "[1]", json.dumps([{**row, "exchange_ms": "x"}]), json.dumps([{**row, "ring_ms": []}])):
            links.write_text(bad, encoding="utf-8")
            status, _, err = self.run_main(six_runs(), "--links", str(links))
            self.assertEqual(status, 1, bad)
            self.assertIn(str(links), err)

    def test_page_is_well_formed_and_self_contained(self):
        self.assertEqual(self.run_main(six_runs())[0], 0)
        page = (self.root / "out" / "report.html").read_text(encoding="utf-8")
        parser = StrictParser()
        parser.feed(page)
        self.assertEqual(parser.open, [])
        self.assertEqual(page.count("<figure>"), 4)
        self.assertNotIn("http", page)
        self.assertIn("A calculation, not a measurement", page)

    def test_differences_are_against_the_run_of_the_same_optimizer(self):
        delta = report.differences(list(six_runs().values()))
        self.assertEqual(delta, {"sgd": 0.0, "topk": -0.5, "dgc": 0.25, "quantize": 0.0, "adam": 0.0,
                                 "onebit_adam": 0.5})

    def test_calculates_links(self):
        rows = {row["label"]: row for row in report.calculate_links(list(six_runs().values()))}
        # 1 MB at 0.957 x 100 Mbit/s takes 83.595 ms; a tenth of it and 1.5 ms of codec 9.8595 ms.
        self.assertAlmostEqual(rows["dense ring"]["ms"][0], 83.595, places=2)
        self.assertAlmostEqual(rows["topk"]["ms"][0], 9.8595, places=3)
        self.assertAlmostEqual(rows["topk"]["faster"][0], 83.595 / 9.8595, places=3)
        self.assertAlmostEqual(rows["topk"]["ms"][2], 0.083595 + 1.5, places=4)
        self.assertEqual(rows["dgc, after its warm-up"]["bytes"], 100_000)
        self.assertNotIn("topk, after its warm-up", rows)

    def test_plain_words_follow_the_numbers(self):
        runs = six_runs()
        for name in ("topk", "dgc", "quantize", "onebit_adam"):
            runs[name]["step_ms"] = 25.0
        words = " ".join(report.plain_words(list(runs.values())))
        self.assertIn("dense took less time a step than topk, dgc, quantize and onebit_adam", words)
        self.assertNotIn("took no longer", words)
        runs["dgc"]["step_ms"] = 15.0
        words = " ".join(report.plain_words(list(runs.values())))
        self.assertIn("dense took less time a step than topk, quantize and onebit_adam", words)
        self.assertIn("dgc took no longer a step than dense", words)

    def test_refuses_ranks_that_differ(self):
        runs = six_runs()
        runs["dgc"]["parameter_hash"][1] = "fedcba9876543210"
        self.assert_refused(runs, "dgc", "different parameters", "fedcba9876543210")

    def test_refuses_runs_that_cannot_be_compared(self):
        for key, value in (("seed", 2), ("steps", 99), ("network", "cnn")):
            runs = six_runs()
            runs["topk"][key] = value
            self.assert_refused(runs, "topk", key, "cannot be compared")

    def test_refuses_a_missing_counterpart_and_doubles(self):
        runs = six_runs()
        del runs["adam"]
        self.assert_refused(runs, "onebit_adam", "'adam' is missing")
        self.assert_refused({"one": make_run("sgd", 90), "two": make_run("sgd", 90)}, "second run called 'sgd'")

    def test_refuses_every_missing_or_wrong_value(self):
        good = make_run("sgd", 90.0)
        for key in (*report.TEXTS, *report.NUMBERS, "parameter_hash", "after_warmup", "curve"):
            for bad in (None, [], {"x": 1}, float("nan"), True):
                run = copy.deepcopy(good)
                run[key] = bad
                with self.subTest(key=key, bad=bad):
                    self.assert_refused({"sgd": run}, "sgd.json")

    def test_refuses_what_is_no_json(self):
        self.assert_refused({"sgd": "{\"name\": "}, "sgd.json", "cannot be read")
        self.assert_refused({"sgd": "[]"}, "sgd.json", "is not a JSON object")


if __name__ == "__main__":
    unittest.main()
