"""User code that ends the process in which it is checked, holds it up, or stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import ends
import pytest
from cases import each
from ends import HEAD, MODEL, check
from left_behind import still_alive_in, working_in

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CUT = f"{HEAD}def build():\n{MODEL}"
FAST = ["os._exit(0)", "a crash", "forks", "prints from a thread", "exits at exit"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The report on some programs, checked in one call."""
    return checked(tmp_path_factory.mktemp("few"), FAST)


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory):
    """The report on all programs, checked in one call."""
    return checked(tmp_path_factory.mktemp("all"), [*ends.FAILS, *ends.GOES_ON])


def checked(folder, names):
    """Check programs in one call: exit code, name → error, names of those judged, processes that are left."""
    targets = dict(zip(ends.write(folder, names), names, strict=True))
    done, report = check(folder, *targets, "--timeout", str(ends.LIMIT), "--max-memory", ends.MEMORY)
    errors = {targets[error["target"]]: error["message"] for error in report["errors"]}
    judged = {targets[finding["target"]] for finding in report["findings"] if finding["code"] == "GL406"}
    return done.returncode, errors, judged, working_in(folder)


def test_an_end_is_an_error_of_its_target_alone(few):
    code, errors, judged, left = few
    assert (code, left) == (2, {})
    assert errors == {name: ends.FAILS[name][1] for name in FAST[:2]}
    assert judged == {*FAST[2:]}


@pytest.mark.slow
@each("name", [*ends.FAILS, *ends.GOES_ON])
def test_every_program_ends_as_it_must(all_of_them, name):
    _, errors, judged, _ = all_of_them
    if name in ends.FAILS:
        assert errors.get(name, "").startswith(ends.FAILS[name][1])
    else:
        assert (errors.get(name), name in judged) == (None, True)


@pytest.mark.slow
def test_no_process_of_user_code_is_left(all_of_them):
    assert (all_of_them[0], all_of_them[3]) == (2, {})


@pytest.mark.slow
@pytest.mark.parametrize("command", [["why", "0.weight"], ["lock"], ["diff"]], ids=lambda words: words[0])
def test_other_commands_report_an_end_too(tmp_path, command):
    (tmp_path / "ends.py").write_text(f"{HEAD}def build():\n    os._exit(0)\n")
    (tmp_path / "cut.py").write_text(CUT)
    name, *rest = command
    targets = ["ends.py:build"] if name == "why" else ["ends.py:build", "cut.py:build"]
    line = [sys.executable, "-m", "gradlint", name, *targets, *rest]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ends.py:build: the code under check called os._exit(0)" in " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["loops", "ignores"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 130), ("SIGHUP", 130), ("SIGKILL", -9)])
def test_a_signal_ends_all_processes(tmp_path, name, code, way):
    ignored = "    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n" if way == "ignores" else ""
    body = f"{ignored}    os.fork()\n    open(str(os.getpid()), 'w')\n    while True: time.sleep(0.1)\n"
    (tmp_path / "endless.py").write_text(f"{HEAD}def build():\n{body}")
    command = [sys.executable, "-m", "gradlint", "check", "endless.py:build", "--output-format", "sarif"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len([path for path in tmp_path.iterdir() if path.name.isdigit()]) < 2:
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in stderr) == (code, False)
    assert ('"version": "2.1.0"' in stdout) == (name != "SIGKILL")
    assert still_alive_in(tmp_path) == []


def test_code_that_does_not_end_is_an_error_with_its_line(tmp_path):
    (tmp_path / "endless.py").write_text("def build():\n    while True: pass\n")
    done, report = check(tmp_path, "endless.py:build", "--timeout", "1")
    (error,) = report["errors"]
    assert (done.returncode, error["target"]) == (2, "endless.py:build")
    place = "it was at endless.py:2"
    assert error["message"] == f"the code under check did not end within 1 s (--timeout): {place}"


@pytest.mark.parametrize("size", ["4", "4XB", "0GB", "much"])
def test_a_size_that_is_none_is_refused(tmp_path, size):
    done, report = check(tmp_path, "model.py:build", f"--max-memory={size}")
    assert (done.returncode, "is no size" in report["errors"][0]["message"]) == (2, True)


def test_targets_under_several_configurations_share_a_call(tmp_path):
    for number, ignored in enumerate(["GL501", "GL406", "GL502"]):
        (tmp_path / f"part{number}").mkdir()
        (tmp_path / f"part{number}" / "gradlint.toml").write_text(f'ignore = ["{ignored}"]\n')
        (tmp_path / f"part{number}" / "model.py").write_text(CUT)
    done, report = check(tmp_path, *(f"part{number}/model.py:build" for number in range(3)))
    found = [(finding["target"], finding["code"]) for finding in report["findings"]]
    assert found == [("part0/model.py:build", "GL406"), ("part2/model.py:build", "GL406")]
    assert done.returncode == 1


def test_a_process_that_cannot_be_started_is_an_error_of_its_target(tmp_path):
    program = (
        "import errno, os, sys\n"
        "def fork(): raise BlockingIOError(errno.EAGAIN, 'busy')\n"
        "os.fork, sys.argv = fork, ['gradlint', 'check', 'cut.py:build', '--output-format', 'json']\n"
        "from gradlint.cli import console_script\n"
        "console_script()"
    )
    (tmp_path / "cut.py").write_text(CUT)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, json.loads(done.stdout)["errors"][0]["message"]) == (2, "no process can be started: busy")
