#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: kill_test.py BIN [--kills N] [--seed S] [--up SECONDS] [--steps N] [--keep FOLDER] -- LAUNCHER...

One training job, and a terse-controller that comes late and is killed (SIGKILL) and started again at random times, N times
in all. Then the same job replays the plans that were in force: no step is lost, the parameters are the same to the bit, and
the store has the whole history. A job that ends before so many kills is followed by another one.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

SKIPPED = 77
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
PATIENCE = 60
# Of a job, for each kill. On a machine with nothing else to do they take twice as long as the controller lives.
STEPS_OF_A_KILL = 240
LEAST_KILLS = 5
# The longest pause before a job tries again, twice, and its next report.
SECONDS_TO_CONNECT = 12
LONGEST = 64  # times as many steps, where a job was over too early
MOST_SECONDS_OF_A_STEP = 0.2
HEAD = "terse-plans 1\n"


def require(condition: object, what: object) -> None:
    """A check that holds with python -O as well."""
    if not condition:
        raise AssertionError(what)


def plans_of(history: str) -> list[str]:
    """The plans of a text that policy.history takes."""
    require(history.startswith(HEAD), history[:200])
    plans = history[len(HEAD):].split("end\n")
    require(plans.pop() == "", "the history ends in the middle of a plan")
    return plans


class Controller:
    """terse-controller on one port and one store, whatever becomes of it."""

    def __init__(self, program: pathlib.Path, folder: pathlib.Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.words = [program, "--listen", self.address, "--store", folder / "store.db"]
        self.log = (folder / "controller.log").open("w", encoding="utf-8")
        self.process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """It need not listen yet."""
        self.process = subprocess.Popen(self.words, stdout=self.log, stderr=self.log)

    def end(self, how: signal.Signals) -> None:
        """If it has not ended by itself, which is an error."""
        if self.process is None:
            return
        status = self.process.poll()
        require(status is None, f"terse-controller ended by itself, with status {status}; see controller.log")
        self.process.send_signal(how)
        self.process.wait(PATIENCE)
        self.process = None


class Trial:
    """One job and the replay of it."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path, steps: int):
        self.options = options
        self.folder = folder
        self.steps = steps
        self.record = folder / "record"
        self.controller = Controller(options.bin / "terse-controller", folder)

    def terse(self, *words: object) -> str:
        """What the command says."""
        done = subprocess.run([self.options.bin / "terse", *map(str, words)], capture_output=True, text=True, timeout=PATIENCE,
                              check=False)
        require(done.returncode == 0, f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def job(self, name: str, *flags: object) -> subprocess.Popen[str]:
        """Starts one; its report and its parameters get the name."""
        words = [self.options.bin / "terse", "run", "--compressor", "quantize", "--policy-interval", 10, "--policy-window", 4,
                 "--dense-when-faster", "false", "--report", self.folder / f"{name}.json", *flags, "--", *self.options.launcher,
                 "-n", 2, self.options.bin / "train_openmpi", "--hidden", 256, "--batch", 8, "--steps", self.steps,
                 "--save", self.folder / f"{name}.bin"]
        with (self.folder / f"{name}.log").open("w", encoding="utf-8") as log:
            return subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, start_new_session=True, text=True)

    def finish(self, name: str, job: subprocess.Popen[str]) -> dict[str, Any]:
        """The report of a job that has to end well, and in bounded time."""
        try:
            status = job.wait(PATIENCE + self.steps * MOST_SECONDS_OF_A_STEP)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"the job '{name}' hangs") from late
        log = (self.folder / f"{name}.log").read_text(encoding="utf-8")
        require(status == 0 and "the ranks' parameters are equal" in log and f"step {self.steps}: " in log, log)
        report = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        (world,) = report["communicators"]
        # The first steps are exact: until the period of its calls is known.
        group = world["group"]
        require(group["steps"] == self.steps - 3 and group["skipped_steps"] == 0, (group["steps"], group["skipped_steps"]))
        group["calls_of_the_job"] = report["intercepted"]["calls"]
        return group

    def kill(self, job: subprocess.Popen[str], most: int, dice: random.Random) -> int:
        """Kills the controller at random times of the job; how often. It runs at the end."""
        kills = 0
        # Until it trains there is nothing to be late for.
        self.wait_for_record(job, 0)
        while True:
            # The first time it comes late, then mostly at once.
            time.sleep(min(dice.expovariate(5 / self.options.up), self.options.up))
            self.controller.start()
            if kills == most:
                return kills
            # Every other time it has lived long enough to bring a plan, on a machine of any speed.
            if kills % 2 == 0:
                self.wait_for_record(job, self.record.stat().st_size)
            time.sleep(min(dice.expovariate(1 / self.options.up), 4 * self.options.up))
            if job.poll() is not None:
                return kills
            self.controller.end(signal.SIGKILL)
            kills += 1
            print(f"\r{kills} of {most} kills", end="", file=sys.stderr, flush=True)

    def wait_for_record(self, job: subprocess.Popen[str], size: int) -> None:
        """Until the record is longer than this, or there is no job that could write it."""
        while job.poll() is None and not (self.record.exists() and self.record.stat().st_size > size):
            time.sleep(0.01)

    def run(self, most: int, dice: random.Random) -> int:
        """How often the controller was killed. 0: the job was over before a plan came, and nothing is shown."""
        begin = time.monotonic()
        job = self.job("job", "--policy-name", "lgreco", "--policy-families", "topk,powersgd", "--policy-gain", 0, "--policy-record", self.record,
                       "--controller-address", self.controller.address)
        try:
            kills = self.kill(job, most, dice)
            if kills == 0:
                self.finish("job", job)
                self.controller.end(signal.SIGTERM)
                return 0
            begin_last = time.monotonic()
            group = self.finish("job", job)
            self.check_link(group["controller"], kills, time.monotonic() - begin_last > SECONDS_TO_CONNECT)
            seconds = time.monotonic() - begin
            plans = self.check_history()
            self.controller.end(signal.SIGTERM)
        finally:
            end_session(job)
            if self.controller.process is not None:
                self.controller.process.kill()
        self.check_replay(group, len(plans))
        link = group["controller"]
        print(f"\r{self.steps} steps in {seconds:.0f} s, {kills} kills: {link['losses']} times lost, {link['reports']} reports arrived, "
              f"{link['orders']} orders came, {len(plans)} plans in force; the same parameters by replay")
        return kills

    def check_link(self, link: dict[str, Any], kills: int, connects_again: bool) -> None:
        """What the job says of its controller."""
        require(link["losses"] <= kills, link)
        # Each loss but the first is one of a connection that was made again.
        require(link["losses"] >= (kills + 1) // 2, f"the job has hardly noticed: {link}")
        require(link["reports"] > 0 and link["orders"] > 0, link)
        if connects_again:
            require(link["connected"] and "reported step" in link["state"], link)

    def check_history(self) -> list[str]:
        """The store has what the job wrote down. Gives the plans."""
        plans = plans_of(self.record.read_text(encoding="utf-8"))
        require(plans, "no plan of the controller's came into force")
        at = ["--controller", self.controller.address]
        end = time.monotonic() + PATIENCE
        while True:
            asked = subprocess.run([self.options.bin / "terse", "job", "list", *at], capture_output=True, text=True,
                                   timeout=PATIENCE, check=False)
            if asked.returncode == 0:
                break
            require(time.monotonic() < end, f"the controller does not answer: {asked.stderr}")
            time.sleep(0.05)
        head, *jobs = asked.stdout.splitlines()
        require(head.startswith("JOB") and len(jobs) == 1, asked.stdout)
        known = plans_of(self.terse("plan", "history", jobs[0].split()[0], "--replay", *at))
        # Every plan that another one followed has been reported; the job may have ended before it reported the last.
        require(known == plans or known == plans[:-1], f"the store has {known}, the job {plans}")
        return plans

    def check_replay(self, group: dict[str, Any], plans: int) -> None:
        """The same job, by the plans that were in force."""
        job = self.job("again", "--policy-name", "replay", "--policy-history", self.record)
        try:
            again = self.finish("again", job)
        finally:
            end_session(job)
        require(again["policy"]["plans"] == group["policy"]["plans"] == plans, (again["policy"]["plans"], group["policy"]["plans"], plans))
        for key in ("steps", "calls_of_the_job", "bytes_sent"):
            require(again[key] == group[key], (key, group[key], again[key]))
        require((self.folder / "job.bin").read_bytes() == (self.folder / "again.bin").read_bytes(), "the parameters differ")


def end_session(job: subprocess.Popen[str]) -> None:
    """Of a job that still runs because something else went wrong."""
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGTERM)
        job.wait(PATIENCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=pathlib.Path, help="where terse, terse-controller and train_openmpi are")
    parser.add_argument("--kills", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000, help="of the times (another one each time)")
    parser.add_argument("--up", type=float, default=0.5, help="seconds for which the controller lives, in the mean (%(default)s)")
    parser.add_argument("--steps", type=int, default=0, help=f"of the job ({STEPS_OF_A_KILL} for each of {LEAST_KILLS} kills or more)")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files; it must not be there yet")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:split])
    options.launcher = sys.argv[split + 1:]
    if not options.launcher:
        parser.error("the launcher is missing: -- mpirun")
    if not DATA.exists():
        print("skipped: the package dataset-fashion-mnist is not installed")
        sys.exit(SKIPPED)
    print(f"seed {options.seed}")
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="terse-kill-") as folder:
        at = options.keep or pathlib.Path(folder)
        kills = 0
        trials = 0
        longer = 1
        while kills < options.kills:
            most = options.kills - kills
            trial = at / f"trial{trials}"
            trial.mkdir(parents=True)
            trials += 1
            steps = longer * (options.steps or STEPS_OF_A_KILL * max(most, LEAST_KILLS))
            killed = Trial(options, trial, steps).run(most, dice)
            if killed == 0:
                # A fast machine, or one that gave the controller no time.
                longer *= 4
                require(longer <= LONGEST, f"{steps} steps are over before a controller's plan comes")
            kills += killed


if __name__ == "__main__":
    main()
