"""``gradlint run``: its options, its configuration and how the script is found."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import processes
import pytest
from script import HEAD, codes, mostly_slow, run
from table import ROOT

pytestmark = pytest.mark.usefixtures("processes")


def test_a_module_is_run_as_python_does(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(HEAD)
    (package / "train.py").write_text("from .parts import iteration\nfor _ in range(5): iteration(clear=False)\n")
    done = processes.gradlint(["run", "--output-format", "json", "-m", "package.train"], tmp_path)
    assert codes(json.loads(done.stdout)) == ["GL501"], done.stderr


@pytest.mark.parametrize("beside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_modules_are_found_as_by_python(tmp_path, beside):
    """Beside the script, and not in the folder that it is run from."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    ((folder if beside else tmp_path) / "shared_parts.py").write_text("COUNT = 2\n", encoding="utf-8")
    body = "import shared_parts\nfor _ in range(shared_parts.COUNT): iteration()\n"
    (folder / "train.py").write_text(HEAD + body, encoding="utf-8")
    command = ["run", "--output-format", "json", str(Path("scripts", "train.py"))]
    done = processes.gradlint(command, tmp_path, {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, "No module named 'shared_parts'" in done.stdout) == ((0, False) if beside else (2, True))


def test_steps_are_counted(tmp_path):
    done, _ = run(tmp_path, "for i in range(50):\n    print('iteration', i)\n    iteration()", "--steps", "5")
    assert "iteration 4" in done.stderr and "iteration 6" not in done.stderr


def test_an_option_of_gradlint_after_the_script_is_told_if_the_script_refuses_it(tmp_path):
    head = "import argparse\nargparse.ArgumentParser().parse_args()\n"
    _, report = run(tmp_path, "", after=("--strict",), head=head)
    [error] = report["errors"]
    assert error["message"].endswith("--strict went to the script; to give it to gradlint, write it before train.py")


DISTRIBUTED = """
import argparse, os, torch, torch.distributed as dist
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
rate = parser.parse_args().rate
dist.init_process_group("nccl")
rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)
model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1).to(rank), device_ids=[rank])
optimizer = torch.optim.SGD(model.parameters(), rate)
for _ in range(9):
    model(torch.ones(2, 2).to(rank)).square().sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    "command",
    [
        ["torchrun", "--nproc-per-node", "8", "train.py"],
        pytest.param(["-m", "torch.distributed.run", "--standalone", "-m", "train"], marks=pytest.mark.slow),
        pytest.param(["accelerate", "launch", "--num_processes=2", "./train.py"], marks=pytest.mark.slow),
    ],
)
def test_the_script_of_a_launcher_is_the_only_process(tmp_path, command):
    (tmp_path / "train.py").write_text(DISTRIBUTED, encoding="utf-8")
    done = processes.gradlint(["run", "--output-format", "json", *command, "--rate", "0.1"], tmp_path)
    report = json.loads(done.stdout)
    assert codes(report) == ["GL501"], done.stderr
    assert any("recorded in one process (RANK 0, WORLD_SIZE 1)" in note["message"] for note in report["notes"])


def test_a_launcher_without_a_script_is_told(tmp_path):
    done = processes.gradlint(["run", "-m", "torch.distributed.run", "--nproc-per-node=2"], tmp_path)
    assert done.returncode == 2 and "torchrun starts a script in other processes: name the script" in done.stdout


def test_a_script_named_like_a_launcher_is_a_script(tmp_path):
    (tmp_path / "torchrun.py").write_text(HEAD + "for _ in range(5): iteration(clear=False)\n")
    done = processes.gradlint(["run", "--output-format", "json", "torchrun.py"], tmp_path)
    assert codes(json.loads(done.stdout)) == ["GL501"], done.stderr


def test_a_script_that_needs_a_launcher_is_told_one(tmp_path):
    _, report = run(tmp_path, "torch.distributed.init_process_group('gloo')")
    [error] = report["errors"]
    assert "gradlint run torchrun train.py" in error["message"]


def test_a_missing_script_is_told(tmp_path):
    done = processes.gradlint(["run", "no.py"], tmp_path)
    assert done.returncode == 2 and "no.py does not exist" in done.stderr + done.stdout


UNCLEARED = "while True: iteration(clear=False)"  # GL501, an error, on line 17


SETTINGS = {
    "none": ("", (), ["GL501"], 1),
    "ignore": ("ignore = ['GL501']", (), [], 0),
    "select": ("select = ['GL4']", (), [], 0),
    "--select before the file's": ("select = ['GL4']", ("--select", "GL5"), ["GL501"], 1),
    "severity": ("severity = {GL501 = 'warning'}\nfail-on = 'error'", (), ["GL501"], 0),
    "--fail-on before the file's": (
        "severity = {GL501 = 'warning'}\nfail-on = 'error'", ("--fail-on", "warning"), ["GL501"], 1,
    ),
    "per-file-ignores": ("per-file-ignores = {'train.py' = ['GL5']}", (), [], 0),
    "per-file-ignores of another file": ("per-file-ignores = {'other.py' = ['GL5']}", (), ["GL501"], 1),
    "ignore-parameters": ("ignore-parameters = {GL501 = ['*']}", (), [], 0),
    "--isolated": ("ignore = ['GL501']", ("--isolated",), ["GL501"], 1),
    "--exit-zero": ("", ("--exit-zero",), ["GL501"], 0),
    "--frozen": ("ignore = ['GL501']", ("--frozen", "2.*"), ["GL702"], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(SETTINGS))
def test_settings_count_as_for_check(tmp_path, name):
    configuration, options, expected, code = SETTINGS[name]
    (tmp_path / "gradlint.toml").write_text(configuration)
    done, report = run(tmp_path, UNCLEARED, *options)
    assert (codes(report), done.returncode) == (expected, code), done.stderr


def test_a_wrong_configuration_is_told_before_the_script_runs(tmp_path):
    (tmp_path / "gradlint.toml").write_text("ignore = ['GL999']")
    done, report = run(tmp_path, "open('ran', 'w')")
    assert done.returncode == 2
    assert "GL999" in report["errors"][0]["message"]
    assert not (tmp_path / "ran").exists()


def test_comments_silence_what_a_run_finds(tmp_path):
    head = HEAD.replace("loss.backward()", "loss.backward()  # gradlint: ignore[GL501]")
    done, report = run(tmp_path, UNCLEARED, head=head)
    assert (codes(report), done.returncode) == ([], 0)


@pytest.mark.slow
def test_a_comment_with_nothing_to_silence_is_told_once_enough_was_seen(tmp_path):
    head = HEAD.replace("loss.backward()", "loss.backward()  # gradlint: ignore[GL501]")
    assert codes(run(tmp_path, "while True: iteration()", head=head)[1]) == ["GL001"]
    assert codes(run(tmp_path, "iteration()", head=head)[1]) == []


@pytest.mark.slow
def test_a_baseline_is_written_and_counts(tmp_path):
    done = processes.gradlint(["run", "--write-baseline", "known.json", "train.py"], _script(tmp_path, UNCLEARED))
    assert done.returncode == 0, done.stderr
    done, report = run(tmp_path, UNCLEARED, "--baseline", "known.json")
    assert (codes(report), done.returncode) == ([], 0)


def test_comments_are_added_for_what_a_run_finds(tmp_path):
    done = processes.gradlint(["run", "--add-ignores", "train.py"], _script(tmp_path, UNCLEARED))
    assert done.returncode == 0, done.stderr
    assert "loss.backward()  # gradlint: ignore[GL501]" in (tmp_path / "train.py").read_text()


def _script(folder: Path, body: str) -> Path:
    (folder / "train.py").write_text(HEAD + textwrap.dedent(body), encoding="utf-8")
    return folder
