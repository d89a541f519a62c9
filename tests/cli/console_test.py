#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""console_test.py BIN LAUNCHER...: terse-controller, a job that it makes plans for, and the console on both.

The job trains until it is killed; the commands are those that a person would type, `terse top` on a
pseudo-terminal."""

import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

BIN = pathlib.Path(sys.argv[1])
LAUNCHER = sys.argv[2:]
PATIENCE = 60


def terse(*words, code=0):
    """Runs a command and gives what it wrote."""
    done = subprocess.run([BIN / "terse", *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == code, f"{words}: {done.returncode}, not {code}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def eventually(what, true_yet):
    """Waits until it is, and gives it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = true_yet()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} has not come about")


class Top:
    """`terse top` on a terminal."""

    def __init__(self, *words):
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.environ["TERM"] = "xterm"
            os.execv(BIN / "terse", ["terse", "top", *words])
        self.seen = ""

    def until(self, pattern):
        """Reads until the screen has it, from the last look on."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:
                    break
        raise AssertionError(f"no {pattern!r} on the screen: {self.seen[-2000:]!r}")

    def keys(self, text):
        """Presses them."""
        os.write(self.terminal, text.encode())

    def quit(self):
        """Ends it, and looks at how it went."""
        self.keys("q")
        self.until(r"\x1b\[\?1049l")
        assert os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]) == 0


def commands(job):
    """All of them, while the job runs."""
    eventually("a plan", lambda: int(json.loads(terse("plan", "show", job, "--json"))["version"]) >= 1)
    tensors = [line.split()[0] for line in terse("top", job, "--once").splitlines() if line.startswith("MPI_FLOAT.")]
    assert len(tensors) == 3, tensors
    largest, smallest = tensors[0], tensors[-1]

    terse("plan", "pin", job, smallest, "bf16")
    eventually("the pin", lambda: re.search(rf"{re.escape(smallest)} +bf16 +pinned by an operator", terse("plan", "show", job)))
    assert "zip" in terse("plan", "pin", job, smallest, "zip", code=1)
    assert "no tensor 'w'" in terse("plan", "pin", job, "w", "none", code=1)
    history = terse("plan", "history", job)
    assert re.search(r"plan 1  step \d+", history) and f"{smallest} -> bf16" in history, history
    assert terse("plan", "history", job, "--replay").startswith("terse-plans 1\nplan 1 "), "the text to replay"
    assert re.search(rf"{re.escape(smallest)} .*bf16", terse("plan", "diff", job, "0"))

    terse("job", "pause", job)
    terse("plan", "unpin", job, smallest)
    eventually("the pause", lambda: "adaptation is paused" in terse("job", "show", job))
    terse("job", "resume", job)
    terse("job", "budget", job, "2.5")
    assert "budget times 2.5" in terse("job", "list")
    assert "alpha is -1" in terse("job", "budget", job, "--", "-1", code=1)

    top = Top()
    top.until(r"1 jobs, 1 running")
    top.keys("\n")
    top.until(r"tensors by elements")
    top.until(rf"> {re.escape(largest)}")
    top.keys("ss")
    top.until(r"tensors by error")
    top.keys("p")
    top.until(r"pin MPI_FLOAT\S+ to ")
    top.keys("fp16\n")
    top.until(r"done; the job takes it up")
    eventually("the pin of top", lambda: re.search(r"fp16 +pinned by an operator", terse("plan", "show", job)))
    top.keys("d")
    eventually("dense", lambda: "dense for all by an operator" in terse("plan", "show", job))
    top.keys("?")
    top.until(r"back to all jobs")
    top.quit()

    audit = terse("job", "audit", job)
    for what in ("PinTensor", "UnpinTensor", "PauseAdaptation 1", "PauseAdaptation 0", "SetBudget 2.5", "ForceDense 1"):
        assert what in audit, (what, audit)


def main():
    """The whole life of a job and its controller."""
    with tempfile.TemporaryDirectory(prefix="terse-console-") as folder:
        port = 20000 + os.getpid() % 20000
        os.environ["TERSE_CONTROLLER_ADDRESS"] = f"127.0.0.1:{port}"
        assert "no terse-controller answers" in terse("job", "list", code=3)
        assert "cannot read /no/such" in terse("job", "list", "--token-file", "/no/such", code=4)
        controller = subprocess.Popen([BIN / "terse-controller", "--listen", f"127.0.0.1:{port}", "--store", f"{folder}/store"])
        try:
            eventually("the controller", lambda: subprocess.run([BIN / "terse", "job", "list"], capture_output=True, timeout=PATIENCE,
                                                                check=False).returncode == 0)
            assert "has no jobs" in terse("plan", "show", code=1)
            flags = ["--compressor", "quantize", "--policy-name", "lgreco", "--policy-interval", "10", "--policy-window", "5",
                     "--dense-when-faster", "false"]
            with open(f"{folder}/job", "w", encoding="utf-8") as output:
                job = subprocess.Popen([BIN / "terse", "run", *flags, "--", *LAUNCHER, "-n", "2", BIN / "train_openmpi", "--steps", "1000000"],
                                       stdout=output, stderr=output, start_new_session=True)
            try:
                eventually("the job", lambda: "running" in terse("job", "list"))
                commands("train")
                assert "it can be removed when it is over" in terse("job", "remove", "train", code=1)
            finally:
                os.killpg(job.pid, signal.SIGTERM)
                job.wait(PATIENCE)
        finally:
            controller.send_signal(signal.SIGTERM)
            assert controller.wait(PATIENCE) == 0, "a controller that is told to stop does so"


if __name__ == "__main__":
    main()
