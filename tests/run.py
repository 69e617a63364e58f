#!/usr/bin/env python3
"""Runs the tests: compiles all of them by one cargo invocation, installs what they need, and starts each in a process of
its own, several at a time. Goes on after a failure; the last line is `N passed, N failed`. See `./test --help`.

Needs cargo, bash and Python's standard library. What a test prints goes to a file of its own in target/test-output,
which is shown when the test fails. A test that takes longer than its time is ended, with all that it started, and has
failed.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
OUTPUT = TARGET / "test-output"
# How long each test took when it ran last, and the test programs that were compiled last.
TIMES = TARGET / "test-times.json"
PROGRAMS = TARGET / "test-programs.json"

# What is compiled: everything, with the time-series store.
CARGO = ["--locked", "--workspace", "--features", "tickmesh/tdengine"]
# With the web pages: tests open them in a browser.
ENVIRONMENT = {"TICKMESH_WEB": "required"}

# Seconds until a test that does not end has failed, and until one of those with a time of their own has.
PATIENCE = 300
OWN_PATIENCE = {"tests/alarms::": 900}

# What a test file uses says what has to be installed for it: see tests/install.
NEEDS = {
    "RedisServer": "redis",
    "RedisCluster": "redis",
    "PostgresServer": "postgres",
    "PrometheusServer": "prometheus",
    "Browser": "browser",
    'join("socketio")': "socketio",
    '"chromium"': "browser",
}

# These measure the machine or fill it: nothing else runs beside them.
ALONE = []

# These take long by their nature and repeat with more what others show: only `--full` runs them, or their names.
FULL_ONLY = [
    # That rules fire and do not fire is shown by promtool, with series that are made up (check::alarms_and_dashboards);
    # that these are the series that processes export, by tests/metrics. This puts both together.
    "tests/alarms::alarms_fire_when_their_cause_is_made_and_not_otherwise",
]
# And there, tests that try what comes by chance try more of it.
FULL_ENVIRONMENT = {"SEEDS": "2000"}

# Checks that are no Rust tests: name, command, directory, what has to be installed.
CHECKS = [
    ("check::web_pages", "npm run --silent check", "web", ["web"]),
    ("check::kubernetes_manifests", "tests/k8s/check", ".", ["python"]),
    ("check::alarms_and_dashboards", "tests/prometheus/check", ".", ["prometheus"]),
    # Links, anchors, and the files that CONTRIBUTING names.
    ("check::documents", "tests/docs/check", ".", ["python"]),
]
# And those of `--full`. They run one after the other, after everything else.
FULL_CHECKS = [
    ("check::format", "cargo fmt --all --check", ".", []),
    ("check::lints", "cargo clippy --locked --workspace --all-targets -- -D warnings", ".", []),
    ("check::documentation", 'RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet', ".", []),
    ("check::book", "tests/docs/check --book", ".", ["python"]),
    ("check::kubernetes_lint", "tests/k8s/check --lint", ".", ["python"]),
    ("check::licences", "cargo deny --log-level error check licenses bans sources", ".", ["cargo-deny"]),
    # Their database is a repository of its own; where it cannot be reached this says so and the rest still counts.
    (
        "check::advisories",
        "cargo deny --log-level error check advisories || echo 'WARNING: advisories are not checked or not clean'",
        ".",
        ["cargo-deny"],
    ),
] + [
    # The fuzzer's instrumentation is behind unstable flags; the bootstrap switch gives them on the stable toolchain.
    (
        f"check::fuzzing_{target}",
        f"RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none {target} -- "
        "-max_total_time=${FUZZ_SECONDS:-30} -max_len=4096",
        ".",
        ["cargo-fuzz"],
    )
    for target in ("decoder", "session", "link", "socketio")
]
# A check of `--full` may compile everything once more.
CHECK_PATIENCE = 1800


class Test:
    """One test, or one check: a command that succeeds. `about` are seconds that it takes, as far as that is known."""

    def __init__(self, name, command, directory, needs=(), program=None, about=1):
        self.name, self.command, self.directory = name, command, directory
        self.needs, self.program, self.about = set(needs), program, about
        self.patience = next((own for part, own in OWN_PATIENCE.items() if part in name), PATIENCE)
        self.alone = any(part in name for part in ALONE)


class Done:
    """A test that was run. `used` are seconds of processors, of what it started as well."""

    def __init__(self, test, run, seconds, used, failure, output):
        self.test, self.run, self.failure, self.output = test, run, failure, output
        self.seconds, self.used = seconds, used


def say(text):
    print(text, flush=True)


def install(needs):
    if needs:
        subprocess.run([ROOT / "tests/install", *sorted(needs)], check=True)


def compile_all():
    """Compiles, and notes the test programs: name, path, directory, and what they were made of."""
    command = ["cargo", "test", *CARGO, "--no-run", "--message-format=json-render-diagnostics"]
    cargo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    programs = []
    for line in cargo.stdout:
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") != "compiler-artifact" or not message["executable"] or not message["profile"]["test"]:
            continue
        target, directory = message["target"], Path(message["manifest_path"]).parent
        package = directory.relative_to(ROOT).as_posix()
        name = f"{package}/{target['name']}" if target["kind"] == ["test"] else package
        programs.append((name, message["executable"], str(directory), target["src_path"]))
    if cargo.wait() != 0:
        sys.exit("the tests do not compile")
    PROGRAMS.write_text(json.dumps(sorted(programs), indent=0))


def tests_of(program):
    name, path, directory, source = program
    texts = {}
    listed = subprocess.run([path, "--list", "--format", "terse"], cwd=directory, check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        test, _, kind = line.rpartition(": ")
        if kind != "test":
            continue
        # Those in tests/tests are one program, and named after their files.
        file = Path(source)
        if file.stem == "all":
            file, full = file.with_name(test.split("::")[0] + ".rs"), f"{Path(name).parent}/{test}"
        else:
            full = f"{name}::{test}"
        text = texts.setdefault(file, file.read_text())
        needs = {need for word, need in NEEDS.items() if word in text} if "/" in name else ()
        # Each of the slowest says why it is.
        slow = re.findall(r"/// Slow: .*\n(?:.*\n)*?(?:async )?fn (\w+)", text)
        about = 30 if test.split("::")[-1] in slow else 5 if needs else 1
        yield Test(full, [path, test, "--exact", "--nocapture"], directory, needs, path, about)


def doc_tests():
    """The examples in docs, where there are any: as one, as rustdoc does not list them."""
    if any(re.search(r"^\s*//[/!]\s*```", source.read_text(), re.M) for source in ROOT.glob("*/src/**/*.rs")):
        examples = Test("docs::examples", ["cargo", "test", *CARGO, "--doc"], ROOT)
        examples.patience = CHECK_PATIENCE
        yield examples


def checks(rows, full):
    for name, command, directory, needs in rows:
        check = Test(name, ["bash", "-c", command], ROOT / directory, needs)
        if full:
            check.alone, check.patience = True, CHECK_PATIENCE
        yield check


class Runner:
    def __init__(self, environment):
        self.environment = environment
        self.lock = threading.Lock()
        self.running = set()
        self.stopped = False

    def run(self, test, run):
        """Runs one test to its end."""
        directory = OUTPUT / f"run-{run}" if run else OUTPUT
        output = directory / (re.sub(r"[^\w.-]+", "-", test.name) + ".txt")
        output.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with output.open("wb") as file:
            child = subprocess.Popen(
                test.command,
                cwd=test.directory,
                env={**os.environ, **self.environment, "CARGO_MANIFEST_DIR": str(test.directory)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with self.lock:
                self.running.add(child.pid)
            failure, ended = None, False
            while not ended:
                time.sleep(0.01)
                ended, status, used = os.wait4(child.pid, os.WNOHANG)
                if not ended and not failure and time.monotonic() - begun > test.patience:
                    failure = f"did not end within {test.patience} s"
                    end_group(child.pid)
            seconds = time.monotonic() - begun
            # What it has started and not ended.
            end_group(child.pid)
        with self.lock:
            self.running.discard(child.pid)
        child.returncode = os.waitstatus_to_exitcode(status)
        if not failure and child.returncode:
            number = child.returncode
            failure = f"was ended by {signal.Signals(-number).name}" if number < 0 else "failed"
        text = output.read_text(errors="replace")
        if not failure and test.program and "test result: ok. 1 passed" not in text:
            failure = "did not run: an ignored test belongs into FULL_ONLY of tests/run.py"
        if not failure and run:
            output.unlink()
        return Done(test, run, seconds, used.ru_utime + used.ru_stime, failure, output)

    def all(self, runs, jobs):
        """Runs all; `jobs` at a time, and then those that want to be alone. Gives them as they end."""
        for alone in (False, True):
            some = [(test, run) for test, run in runs if test.alone == alone]
            with ThreadPoolExecutor(1 if alone else jobs) as pool:
                futures = [pool.submit(self.reported, test, run) for test, run in some]
                try:
                    for future in futures:
                        yield future.result()
                except BaseException:
                    self.stopped = True
                    pool.shutdown(wait=False, cancel_futures=True)
                    with self.lock:
                        for pid in self.running:
                            end_group(pid)
                    raise

    def reported(self, test, run):
        if self.stopped:
            return None
        done = self.run(test, run)
        if not self.stopped:
            number = f"run {run}: " if run else ""
            word = "FAILED" if done.failure else "ok"
            why = f" {done.failure}, see {shown(done.output)}" if done.failure else ""
            say(f"{word:>6} {done.seconds:8.2f} s  {number}{test.name}{why}")
        return done


def shown(path):
    return os.path.relpath(path)


def end_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def doc_counts(done):
    """What a run of several tests in one came to."""
    counted = re.findall(r"^test result: .* (\d+) passed; (\d+) failed", done.output.read_text(errors="replace"), re.M)
    return sum(int(passed) for passed, _ in counted), sum(int(failed) for _, failed in counted)


def summary(all_done, times):
    passed = failed = 0
    for done in all_done:
        if done.test.name.startswith("docs::"):
            good, bad = doc_counts(done)
            passed, failed = passed + good, failed + max(bad, bool(done.failure))
        elif done.failure:
            failed += 1
        else:
            passed += 1
    slowest = sorted(all_done, key=lambda done: -done.seconds)[:20]
    say("\nThe slowest, with the processors' time that they used:")
    for done in slowest:
        number = f" in run {done.run}" if done.run else ""
        say(f"{done.seconds:8.2f} s {done.used:8.2f} s  {done.test.name}{number}")
    for done in (done for done in all_done if done.failure and not done.run):
        say(f"\n---- {done.test.name} {done.failure}")
        lines = done.output.read_text(errors="replace").splitlines()
        if len(lines) > 200:
            say(f"(the last 200 of {len(lines)} lines; all are in {shown(done.output)})")
        say("\n".join(lines[-200:]))
    for done in all_done:
        for line in done.output.read_text(errors="replace").splitlines() if done.output.exists() else ():
            if line.startswith("WARNING: ") and done.test.name.startswith("check::"):
                say(f"\n{done.test.name}: {line}")
    if failed:
        say("\nFailures:")
        for done in (done for done in all_done if done.failure):
            number = f"run {done.run}: " if done.run else ""
            say(f"  {number}{done.test.name} {done.failure} after {done.seconds:.1f} s: {shown(done.output)}")
    times.update({done.test.name: round(done.seconds, 2) for done in all_done})
    TIMES.write_text(json.dumps(times, indent=0, sort_keys=True))
    say(f"\n{passed} passed, {failed} failed")
    return 1 if failed else 0


def arguments():
    parser = argparse.ArgumentParser(prog="./test", description="Installs what the tests need, and runs them.")
    parser.add_argument("name", nargs="*", help="run only tests whose name has this in it, such as a file's name")
    parser.add_argument("--full", action="store_true", help="lints, licences and fuzzing as well, and the longest tests")
    parser.add_argument("--list", action="store_true", help="say which tests there are")
    parser.add_argument("--repeat", type=int, metavar="N", help="run them N times, one time after the other")
    parser.add_argument("--built", action="store_true", help="run what was compiled last, without compiling")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="keep N processors busy meanwhile")
    # Most of the longer ones wait, for a lease or for a timer.
    jobs = 2 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, metavar="N", help=f"tests at a time, here {jobs}")
    return parser.parse_args()


def main():
    wanted = arguments()
    os.environ.update(ENVIRONMENT)
    if not wanted.built:
        install({"node"})
        compile_all()
    programs = json.loads(PROGRAMS.read_text())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tests = [test for some in pool.map(lambda one: list(tests_of(one)), programs) for test in some]
    tests += [*doc_tests(), *checks(CHECKS, False), *(checks(FULL_CHECKS, True) if wanted.full else ())]
    for file in ROOT.glob("tests/tests/*.rs"):
        if file.stem != "all" and not any(test.name.startswith(f"tests/{file.stem}::") for test in tests):
            sys.exit(f"{file} is not named in tests/tests/all.rs")
    for part in FULL_ONLY + ALONE:
        if not any(part in test.name for test in tests):
            sys.exit(f"tests/run.py: there is no test {part}")
    if wanted.name:
        tests = [test for test in tests if any(name in test.name for name in wanted.name)]
    elif not wanted.full:
        tests = [test for test in tests if not any(part in test.name for part in FULL_ONLY)]
    if not tests:
        sys.exit(f"no test has {' or '.join(wanted.name)} in its name")
    if wanted.list:
        say("\n".join(test.name for test in tests))
        return 0
    install(set().union(*(test.needs for test in tests)))
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    # The longest first, so that none of them is left over at the end.
    tests.sort(key=lambda test: -times.get(test.name, test.about))
    runs = range(1, wanted.repeat + 1) if wanted.repeat else [0]
    shutil.rmtree(OUTPUT, ignore_errors=True)
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"], start_new_session=True) for _ in range(wanted.busy)]
    begun = time.monotonic()
    try:
        more = FULL_ENVIRONMENT if wanted.full else {}
        all_done = list(Runner({**ENVIRONMENT, **more}).all([(test, run) for run in runs for test in tests], wanted.jobs))
    finally:
        for one in busy:
            end_group(one.pid)
    say(f"\n{len(all_done)} runs in {time.monotonic() - begun:.0f} s, {wanted.jobs} at a time")
    return summary(all_done, times)


def interrupted(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    # Whoever ends this ends what it started.
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
