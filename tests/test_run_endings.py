"""``gradlint run``: when a script is ended, how it ends, and what is left of it."""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
import zipfile
from pathlib import Path

import processes
import pytest
from script import HEAD, codes, run

from gradlint.runner import wind_up
from gradlint.system.process_tree import open_descriptors

pytestmark = pytest.mark.usefixtures("processes")

OWN = """
atexit.register(lambda: print("at exit"))
print("arguments", sys.argv)
print("read", repr(sys.stdin.read()))

class Log:
    def __init__(self, path): self.me, self.file = self, open(path, "w")

model.log = Log("module.txt")
one, other = Log("own.txt"), open("global.txt", "wb")
atexit.register(lambda: one.file.write(" and more"))
for file in (one.file, model.log.file): file.write("written")
other.write(b"written")
try:
    while True: iteration()
finally:
    open("saved.txt", "w").write("saved")
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory, processes):
    """One run of a script with things of its own to end: its folder, the process and the report."""
    folder = tmp_path_factory.mktemp("ended")
    done, report = run(folder, OWN, after=("--lr", "1e-3", "-v"))
    assert (done.returncode, report["errors"]) == (0, []), done.stderr
    return folder, done


def test_arguments_output_and_teardown_are_the_scripts_own(ended):
    folder, done = ended
    assert "arguments ['train.py', '--lr', '1e-3', '-v']" in done.stderr
    assert "at exit" in done.stderr and (folder / "saved.txt").read_text() == "saved"


def test_what_is_left_open_is_written(ended):
    folder, _ = ended
    left = [(folder / name).read_text() for name in ("own.txt", "module.txt", "global.txt")]
    assert left == ["written and more", "written", "written"]


def test_what_finalizes_itself_does(tmp_path):
    """Also where it was made, and survived a collection, before any model."""
    before = """
    import gc, zipfile
    class Holder:
        def __init__(self): self.me, self.archive = self, zipfile.ZipFile("out.zip", "w")
    holder = Holder()
    gc.collect()
    """
    script = textwrap.dedent(before) + HEAD + "holder.archive.writestr('name', 'content')\nwhile True: iteration()\n"
    run(tmp_path, "", head=script)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("name") == b"content"


def test_what_a_handler_holds_finalizes_itself(tmp_path):
    """A registered function holds the globals of the script, as long as these are not cleared."""
    before = """
    import signal, zipfile
    class Holder:
        def __init__(self): self.me, self.archive = self, zipfile.ZipFile("out.zip", "w")
    holder = Holder()
    signal.signal(signal.SIGTERM, lambda *_: print(holder))
    """
    script = textwrap.dedent(before) + HEAD + "holder.archive.writestr('name', 'content')\nwhile True: iteration()\n"
    run(tmp_path, "", head=script)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("name") == b"content"


def test_a_suspended_generator_is_closed_with_what_it_needs(tmp_path):
    """No file is open, so that libraries are not collected: they stay frozen."""
    before = """
    import gc
    class Settings: text = "closed"
    settings = Settings()
    def batches():
        try: yield 1
        finally: print(settings.text, gc.get_freeze_count() > 0)
    data = batches()
    next(data)
    """
    done, _ = run(tmp_path, "while True: iteration()\n", head=textwrap.dedent(before) + HEAD)
    assert "closed True" in done.stderr


def test_what_finalizes_itself_without_a_file_does(tmp_path):
    """Also in a cycle from before any model; the globals are still there."""
    before = """
    class Settings: path = "stats.txt"
    settings = Settings()
    class Base:
        def __del__(self): open(settings.path, "w").write("stats")
    def local():
        class Statistics(Base):
            def __init__(self): self.me = self
        return Statistics()
    statistics = local()
    import gc; gc.collect()
    """
    run(tmp_path, "while True: iteration()\n", head=textwrap.dedent(before) + HEAD)
    assert (tmp_path / "stats.txt").read_text() == "stats"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system lists no descriptors")
def test_only_files_that_somebody_can_read_count_as_written(tmp_path):
    before = open_descriptors()
    with open(tmp_path / "first", "w"):
        assert wind_up._writes(before)
    with open(os.devnull, "w"), tempfile.TemporaryFile("w"):
        assert not wind_up._writes(before)
        with open(tmp_path / "kept", "w"):
            assert wind_up._writes(before)
            assert not wind_up._writes(open_descriptors())


def test_the_main_module_is_the_script_at_exit(tmp_path):
    body = """
    import __main__
    weight = 71
    atexit.register(lambda: print("weight", sys.modules["__main__"].weight, __main__.weight, file=sys.stderr))
    iteration()
    """
    assert "weight 71 71" in run(tmp_path, textwrap.dedent(body))[0].stderr


def test_stdin_is_empty(ended):
    assert "read ''" in ended[1].stderr


MANY_CALLS = {
    "transforms without parameters": """
        class Flip(nn.Module):
            def forward(self, x): return x.flip(-1)
        flip = Flip()
        while True:
            for _ in range(30): x = flip(x)
            iteration()
        """,
    "calls between the backward passes": """
        while True:
            for _ in range(15): model(x)
            iteration()
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY_CALLS)
def test_many_calls_with_progress_do_not_stop_a_script(tmp_path, name):
    _, report = run(tmp_path, MANY_CALLS[name], "--max-batches", "20")
    assert (report["findings"], report["notes"], report["errors"]) == ([], [], [])


def test_a_long_epoch_before_the_first_step_is_bounded_and_told(tmp_path):
    body = "while True:\n    loss = model(x).sum() / 1000\n    loss.backward()"
    done, report = run(tmp_path, body, "--max-batches", "20")
    assert any("--max-batches" in note["message"] for note in report["notes"]), report
    assert done.returncode == 1 and codes(report) == ["GL503"]


@pytest.mark.slow
def test_evaluation_between_the_steps_is_not_what_batches_are_counted_for(tmp_path):
    body = """
    while True:
        iteration()
        model.eval()
        with torch.no_grad():
            for _ in range(100): model(x)
        model.train()
    """
    _, report = run(tmp_path, body, "--max-batches", "100")
    assert (report["findings"], report["notes"]) == ([], [])


@pytest.mark.slow
def test_a_script_that_takes_too_long_is_ended(tmp_path):
    done, report = run(tmp_path, "while True:\n    time.sleep(0.05)\n    model(x)", "--timeout", "8")
    assert done.returncode == 2 and "8 s" in report["errors"][0]["message"]


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_nothing_keeps_running(tmp_path):
    body = """
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    open("pids.txt", "w").write(f"{child.pid} {apart.pid} {os.getpid()}")
    while True: iteration()
    """
    done, report = run(tmp_path, body)
    assert report["errors"] == [], done.stderr
    pids = map(int, (tmp_path / "pids.txt").read_text().split())
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    if sys.platform.startswith("linux"):
        assert alive == []


@pytest.mark.slow
def test_the_option_is_named_if_a_script_ends_in_its_own_way_when_its_time_is_up(tmp_path):
    body = "try: time.sleep(100)\nexcept KeyboardInterrupt: sys.exit(5)"
    _, report = run(tmp_path, body, "--timeout", "1")
    assert "--timeout" in report["errors"][0]["message"]


def test_a_crash_is_told(tmp_path):
    done, report = run(tmp_path, "", head="import ctypes, torch\nctypes.string_at(0)\n")
    [error] = report["errors"]
    assert done.returncode == 2 and "ended by signal 11 (SIGSEGV) before anything could be judged" in error["message"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="C's library")
def test_the_place_that_a_script_does_not_leave_is_told(tmp_path):
    """No thread of Python runs there."""
    (tmp_path / "train.py").write_text("import ctypes\nctypes.PyDLL(None).sleep(60)\n", encoding="utf-8")
    told = processes.gradlint(["run", "--timeout", "1", "train.py"], tmp_path).stdout
    assert "ended after 1 s (--timeout)" in told and 'train.py", line 2, in <module>' in told
