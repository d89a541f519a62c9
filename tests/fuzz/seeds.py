#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of tests/fuzz/corpus: the golden payloads for the decoders, their inputs and a few
hostile floats for the encoders, and one good and one odd input for each parser. Other files of the corpus
are left alone: what a fuzzer found is kept beside the seeds.

usage: tests/fuzz/seeds.py
"""

import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden"
CODECS = ["none", "fp16", "bf16", "topk", "onebit", "quantize", "powersgd"]  # by their numbers on the wire
VALUES = {"fp32": 0, "fp16": 1, "bf16": 2}
SPANS = {"minmax": 0, "max": 1, "l2": 2}


def records(path):
    """The records of a golden file (tests/compressors/golden_test.cc says how they look)."""
    record = {}
    for line in path.read_text().splitlines() + [""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if record:
                yield record
            record = {}
            continue
        key, _, value = line.strip().partition(" ")
        record[key] = f"{record[key]} {value}" if key in record else value


def header(codec, params, extent, repetitions=0):
    """As tests/fuzz/codec_input.h reads it."""
    choices = (
        (params.get("index", "u32") == "rice")
        | (params.get("selection", "exact") == "sampled") << 1
        | (params.get("rounding", "nearest") == "stochastic") << 2
        | (params.get("scale", "l2") == "l1") << 3
        | (params.get("error", "local") == "local") << 4
        | repetitions << 5
    )
    return struct.pack(
        "<BBHHHBBH",
        CODECS.index(codec),
        int(params.get("bits", 4)),
        int(params.get("block", 512)) // 8,
        int(params.get("rank", 4)),
        round(float(params.get("density", 0.01)) * 65536) - 1,
        VALUES[params.get("values", "fp32")] + 3 * SPANS[params.get("span", "minmax")],
        choices,
        extent,
    )


def write(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed_{name}").write_bytes(content)


def golden_seeds():
    for codec in CODECS:
        for number, record in enumerate(records(GOLDEN / f"{codec}.txt")):
            params = dict(word.split("=") for word in record.get("params", "").split())
            elements = int(record["elements"]) if "elements" in record else len(record["values"].split())
            payload = bytes.fromhex(record["payload"])
            write("decode", f"{codec}_{number}", header(codec, params, elements) + payload)
            if "input" in record:
                floats = [float(word) for word in record["input"].split()]
                twice = struct.pack(f"<{2 * len(floats)}f", *floats, *floats)
                write("encode", f"{codec}_{number}", header(codec, params, 8) + twice)


def hostile_seeds():
    patterns = [0x00000001, 0x80000000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFFC00001, 0x00800000, 0x3F800000]
    for codec in CODECS:
        for block in (16, 512):
            floats = struct.pack("<8I", *patterns) * 20
            write("encode", f"{codec}_hostile_block{block}", header(codec, {"block": block, "density": 0.25}, 64) + floats)
    many = struct.pack("<512f", *(float(i * i % 1009 - 400) for i in range(512)))
    for selection in ("exact", "sampled"):
        write("encode", f"topk_{selection}", header("topk", {"selection": selection, "index": "rice"}, 0, 7) + many)


def frame_seeds():
    def frame(codec, exchange, flags, begin, count, payload):
        return struct.pack(
            "<HBBBBHIIQQQQII", 0x5254, 1, codec, exchange, 0, flags, 1, 2, 3, begin, count, len(payload), 0, 0
        ) + payload

    write("frame", "empty", frame(0, 2, 0, 0, 0, b""))
    write("frame", "payload", frame(5, 3, 1, 512, 1024, bytes(range(40))))
    write("frame", "overflow", frame(3, 2, 0, 2**64 - 1, 2, b"\1"))
    # One whose checksum is right as it stands: the golden frame of tests/proto/frame_test.cc.
    golden = (
        "5452010503000100 0403020114131211 2827262524232221 3837363534333231 4847464544434241"
        "0300000000000000 0000000010ffae4c 00070e"
    )
    write("frame", "golden", bytes.fromhex(golden))


def announcement_seeds():
    def announcement(intent, flags, submitted):
        return struct.pack("<IIQQQQII", 0x41525254, intent, 7, 9, 0x0123456789ABCDEF, 0, 20, flags) + submitted

    write("announcement", "configure", announcement(1, 0, b""))
    write("announcement", "settle", announcement(2, 1, b"\xff\x0f\x00"))
    write("announcement", "step", announcement(3, 2, b""))
    write("announcement", "times", announcement(3, 4, struct.pack("<Ifff", 3, 0.25, -1.0, 12.5)))
    write("announcement", "times_none", announcement(2, 4, struct.pack("<I", 0)))
    write("announcement", "times_negative", announcement(2, 5, struct.pack("<If", 1, -2.0) + b"\x01"))
    write("announcement", "no_intent", announcement(99, 0, b""))


def sparse_split_seeds():
    def message(load, ranks, elements, k, payload):
        return struct.pack("<BBHH", load, ranks - 1, elements - 1, k - 1) + payload

    write("sparse_split", "samples", message(0, 4, 1000, 50, struct.pack("<32I", *range(3, 995, 31))))
    write("sparse_split", "samples_few", message(0, 9, 40, 5, struct.pack("<3I", 0, 7, 39)))
    write("sparse_split", "samples_none", message(0, 3, 40, 5, b""))
    write("sparse_split", "samples_descend", message(0, 2, 40, 5, struct.pack("<2I", 8, 7)))
    write("sparse_split", "load", message(1, 4, 1000, 64, struct.pack("<II", 60, 40) + b"sums"))
    write("sparse_split", "load_none", message(1, 4, 1000, 64, struct.pack("<II", 0, 0)))
    write("sparse_split", "load_too_much", message(1, 4, 1000, 64, struct.pack("<II", 257, 40)))
    write("sparse_split", "load_twice", message(1, 4, 1000, 64, struct.pack("<II", 5, 6)))


def state_sections(file):
    """Kind and body of each section of a file of saved state (docs/state_format.md)."""
    at = 64
    while at < len(file):
        kind, size = struct.unpack_from("<I4xQ", file, at)
        yield kind, file[at + 16 : at + 16 + size]
        at += 16 + size + 4


def state_tensor(codec, exchange, counters=(), vectors=(), worker_state=b"", unit=0.5):
    """A tensor's section, 6 x 4; vectors are (name, role, elements), their checksums are the target's affair."""

    def text(string):
        return struct.pack("<I", len(string)) + string.encode()

    def row(reason):
        numbers = [CODECS.index(codec), exchange, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0]
        return struct.pack("<12BIdII", *numbers, 2, 0.25, 4, 16) + text(reason)

    body = struct.pack("<IBBH2q", 0, 0, 1, 2, 6, 4) + text("w") + struct.pack("<QQ", 24, 0)
    body += row("configured") + row("configured") + struct.pack("<QQ", 5, 6)
    body += struct.pack("<I", len(counters))
    for name, value in counters:
        body += text(name) + struct.pack("<Q", value)
    body += struct.pack("<I", len(vectors))
    for name, role, count in vectors:
        values = struct.pack(f"<{count}f", *(unit * (i - 6) for i in range(count)))
        body += text(name) + struct.pack("<B3xIQQ", role, 0, 0, count) + values
    return body + struct.pack("<Q", len(worker_state)) + worker_state + struct.pack("<Q", 0)


def state_seeds():
    def choices(method, old_size, size, rank):
        return bytes([method | (old_size - 1) << 2 | (size - 1) << 4 | rank << 6])

    for path in sorted((GOLDEN / "state" / "save-1").glob("*.terse")):
        rank = int(path.name.split("-")[1])
        file = path.read_bytes()
        write("state", f"file_{rank}", b"\0\0" + file)
        for number, (kind, body) in enumerate(state_sections(file)):
            part = {1: 3, 2: 1, 3: 2}[kind]
            write("state", f"section_{rank}_{number}", bytes([part]) + choices(2, 2, 2, rank) + body)
    group = struct.pack("<QQqIIIIQQQ3d", 9, 1, 64, 2, 1, 2, 0, 3, 0, 3, 1.0, 0.5, float("inf"))
    write("state", "group_warmup", b"\1\0" + group)

    own, replicated, shard = 0, 1, 2
    error = [("residual", own, 24)]
    frozen = [("m_updates", 3), ("variance_updates", 3), ("frozen", 1), ("draining", 0), ("own_warmup", 3)]
    moments = [("m", replicated, 24), ("variance", replicated, 24), ("worker_error", own, 24)]
    tensors = {
        "none": (0, state_tensor("none", 0)),
        "topk": (0, state_tensor("topk", 2, vectors=error)),
        "quantize": (0, state_tensor("quantize", 3, vectors=error + [("server_error", shard, 24)])),
        "powersgd": (0, state_tensor("powersgd", 5, vectors=error, worker_state=bytes(range(32)))),
        "dgc": (1, state_tensor("topk", 2, vectors=[("u", own, 24), ("v", own, 24), ("decay", replicated, 24)])),
        "adam": (2, state_tensor("onebit", 3, frozen, moments + [("server_error", shard, 24)])),
    }
    huge = state_tensor("topk", 2, vectors=error, unit=2e37)
    write("state", "huge_3_to_2", b"\2" + choices(0, 3, 2, 0) + huge)
    # Refused.
    for name, counters, vectors in [
        ("counters_twice", [("frozen", 1)] * 2, []),
        ("counters_many", [(f"c{i}", i) for i in range(65)], []),
        ("vectors_twice", [], error * 2),
        ("vectors_many", [], [(f"v{i}", own, 0) for i in range(65)]),
        ("vector_short", [], [("residual", own, 23)]),
        ("vector_role", [], [("residual", replicated, 24)]),
    ]:
        write("state", name, b"\2\0" + state_tensor("topk", 2, counters, vectors))
    for name, (method, body) in tensors.items():
        for old_size, size in ((1, 1), (2, 1), (1, 3), (3, 4)):
            write("state", f"{name}_{old_size}_to_{size}", b"\2" + choices(method, old_size, size, size - 1) + body)


def settings_seeds():
    yaml = {
        "sections": "method: dgc\nexclude: [\"*.bias\", '*norm*', embedding.*]\ndgc:\n  density: 0.001\n"
        "  warmup_density: [0.25, 0.0625]\n  nesterov: true\ntransport: {timeout_s: 120, name: inproc}\n",
        "scalars": "compressor: topk\nmin_elements: 0x10\nseed: 1e3\nerror_feedback: no\nadam: {freeze: auto}\n",
        "anchors": "--- !!map\na: &a [1, *a]\n<<: *a\n? ~\n: |\n  text\n...\n",
        "nested": "topk: {density: {a: [[[[1]]]]}}\n",
    }
    for name, text in yaml.items():
        write("config_yaml", name, text.encode())
    environment = {
        "numbers": "TOPK_DENSITY=0.01\nQUANTIZE_BITS=8\nSEED=-1\nADAM_EPS=1e-8\nADAM_FREEZE=auto\n",
        "lists": "EXCLUDE=[a, b*]\nTOPK_WARMUP_DENSITY=1, 0.25\nDISABLE=yes\n",
        "words": "METHOD=onebit_adam\nCOMPRESSOR=onebit\nTRANSPORT_NAME=mpi\nLOG=debug\n",
        "misspelt": "TOPK_DENSTY=0.01\n=\nSEED\n",
    }
    for name, text in environment.items():
        write("config_environment", name, text.rstrip("\n").encode())


if __name__ == "__main__":
    golden_seeds()
    hostile_seeds()
    frame_seeds()
    announcement_seeds()
    sparse_split_seeds()
    state_seeds()
    settings_seeds()
