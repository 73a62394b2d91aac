"""`gradlint lock`, `lock --check` and `diff`: the file, the words, and what must not happen to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cases import each
from hypothesis import given
from hypothesis import strategies as st

from gradlint import cli
from gradlint.flow.outcome import OutcomeKind
from gradlint.location import Location
from gradlint.lock.lockfile import LockError, key_of, parse, read, render, target_of, write
from gradlint.lock.snapshot import Entry, Norm, Snapshot, changes

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(4, 4) for _ in range(12))
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        # made here

    def forward(self, x):
        for layer in self.layer:
            x = layer(x).tanh()
        # cut here
        return self.head(self.norm(x))


def build():
    torch.manual_seed(0)
    model = Net()
    # changed here
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model.py and a configuration that names its build, which is the working directory."""
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.gradlint]\ntargets = ["model.py:build"]\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(project: Path, mark: str, code: str) -> int:
    """Put a statement where a comment stands; returns its line."""
    text = (project / "model.py").read_text(encoding="utf-8")
    (project / "model.py").write_text(text.replace(f"# {mark}", code), encoding="utf-8")
    return text.split(f"# {mark}")[0].count("\n") + 1


def append(project: Path, code: str) -> None:
    """Put more at the end of model.py."""
    text = (project / "model.py").read_text(encoding="utf-8")
    (project / "model.py").write_text(text + code, encoding="utf-8")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Run a command; its exit code, stdout and stderr."""
    capsys.readouterr()
    code = cli.main(list(args))
    done = capsys.readouterr()
    return code, done.out, done.err


def test_file_is_sorted_and_says_what_trains(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project, "changed here", "model.layer[:2].requires_grad_(False); model.norm.eval()")
    code, out, err = run(capsys, "lock")
    assert (code, err) == (0, "")
    assert out == "gradlint.lock: 1 target written\n  model.py:build: 28 tensors, 258 parameters: 4 frozen, 24 train\n"
    lines = (project / "gradlint.lock").read_bytes().decode().split("\n")
    assert lines[0] == "# gradlint lock, version 2" and lines[3:6] == [
        "[model.py:build]",
        "head.bias  2  trains  SGD lr=0.1",
        "head.weight  2x4  trains  SGD lr=0.1",
    ]
    assert [line for line in lines if line.startswith("layer.1")][:3] == [
        "layer.1.bias  4  frozen",
        "layer.1.weight  4x4  frozen",
        "layer.10.bias  4  trains  SGD lr=0.1",
    ]
    assert lines.index("layer.2.bias  4  trains  SGD lr=0.1") < lines.index("layer.10.bias  4  trains  SGD lr=0.1")
    assert "norm  BatchNorm1d  eval" in lines


def test_unchanged_is_clean_and_not_written_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "lock")
    before = (project / "gradlint.lock").stat().st_mtime_ns
    assert run(capsys, "lock")[1].startswith("gradlint.lock: 1 target as before\n")
    assert (project / "gradlint.lock").stat().st_mtime_ns == before
    code, out, _ = run(capsys, "lock", "--check")
    assert code == 0 and out.endswith("no findings\n") and "28 tensors, 258 parameters: 28 train" in out
    assert run(capsys, "diff")[:2] == (0, "no difference\n")


def test_moved_lines_do_not_matter(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "lock")
    text = (project / "model.py").read_text(encoding="utf-8")
    (project / "model.py").write_text("# more\n\n\n" + text, encoding="utf-8")
    assert run(capsys, "lock", "--check")[0] == 0


@pytest.mark.parametrize(
    ("mark", "code", "said"),
    [
        (
            "changed here",
            "model.layer[11].requires_grad_(False)",
            "layer.11.* (2 tensors, 20 parameters) stopped training: frozen at model.py:{line}",
        ),
        (
            "cut here",
            "x = x.detach()",
            "layer.* (24 tensors, 240 parameters) stopped training: detach() cuts the gradient path at model.py:{line}",
        ),
        (
            "changed here",
            "model.head = nn.Linear(4, 3)",
            "head.weight (1 tensor, 12 parameters) changed shape: 3x4, 2x4 before\n"
            "head.bias (1 tensor, 3 parameters) changed shape: 3, 2 before",
        ),
        (
            "changed here",
            "model.norm.eval()",
            "norm (1 norm layer) is now in eval mode and keeps its running statistics",
        ),
        (
            "made here",
            "self.extra = nn.Linear(2, 2)",
            "extra.* (2 tensors, 6 parameters) are new, unused in this forward, see model.py:{line}",
        ),
        (
            "changed here",
            "model.norm = nn.Identity()",
            "norm.* (2 tensors, 8 parameters) are gone, training before",
        ),
    ],
)
def test_changes_in_words(project: Path, capsys: pytest.CaptureFixture[str], mark: str, code: str, said: str) -> None:
    run(capsys, "lock")
    line = edit(project, mark, code)
    assert run(capsys, "diff")[:2] == (1, said.format(line=line) + "\n")
    status, out, _ = run(capsys, "lock", "--check", "--output-format", "concise")
    assert status == 1 and all(": GL704 " in found for found in out.splitlines())
    assert out.count("\n") == said.count("\n") + 1


def test_the_other_way_round(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = edit(project, "changed here", "model.layer[11].requires_grad_(False)")
    run(capsys, "lock")
    text = (project / "model.py").read_text(encoding="utf-8")
    (project / "model.py").write_text(text.replace("model.layer[11].requires_grad_(False)", "pass"), encoding="utf-8")
    assert run(capsys, "diff")[1] == (
        "layer.11.* (2 tensors, 20 parameters) started training: reached by gradient and updated by SGD, "
        f"see model.py:{line + 1}\n"
    )


def test_rates_and_optimizers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "lock")
    text = (project / "model.py").read_text(encoding="utf-8")
    (project / "model.py").write_text(text.replace("lr=0.1", "lr=0.01"), encoding="utf-8")
    assert "changed learning rate: SGD lr=0.01, SGD lr=0.1 before" in run(capsys, "diff")[1]
    (project / "model.py").write_text(text.replace("optim.SGD", "optim.Adam"), encoding="utf-8")
    assert "moved to Adam lr=0.1, from SGD lr=0.1" in run(capsys, "diff")[1]


def test_finding_names_the_cause_and_the_locked_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "lock")
    line = edit(project, "changed here", "model.layer[11].requires_grad_(False)")
    out = run(capsys, "lock", "--check")[1]
    assert "GL704 lock-drift  error" in out and f"model.py:{line}:" in out
    assert "locked here: gradlint.lock:30:1" in out and "run `gradlint lock` and commit" in out


def test_two_targets_and_two_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project, "changed here", "pass")
    append(
        project,
        "\n\ndef build_less():\n    setup = build()\n    setup['model'].head.requires_grad_(False)\n    return setup\n",
    )
    said = "head.* (2 tensors, 10 parameters) stopped training: frozen"
    assert run(capsys, "diff", "model.py:build", "model.py:build_less")[1].startswith(f"{said} at model.py:")
    run(capsys, "lock", "--lock-file", "a.lock")
    run(capsys, "lock", "--lock-file", "b.lock", "model.py:build_less")
    assert run(capsys, "diff", "a.lock", "model.py:build_less")[1].startswith(f"{said} at model.py:")
    both = run(capsys, "diff", "a.lock", "b.lock")
    assert both[0] == 1 and "model.py:build is locked and no longer a target" in both[1]


def test_one_target_of_several_is_written_and_the_others_kept(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(project, "\n\ndef other():\n    return build()\n")
    run(capsys, "lock")
    run(capsys, "lock", "./model.py:other")
    assert set(read(project / "gradlint.lock")) == {"model.py:build", "model.py:other"}
    code, out, _ = run(capsys, "lock", "--check")
    assert code == 1 and "model.py:other is locked and no longer a target." in out
    assert run(capsys, "lock", "--check", "model.py:other")[0] == 0
    assert run(capsys, "lock", "--check", "model.py:third")[0] == 2
    run(capsys, "lock")
    assert set(read(project / "gradlint.lock")) == {"model.py:build"}


def test_from_another_folder(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "lock")
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    assert run(capsys, "lock", "--check")[0] == 0
    assert run(capsys, "lock", "--check", "../model.py:build")[0] == 0


def test_without_configuration_the_locked_targets_are_checked(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").write_text("", encoding="utf-8")
    assert run(capsys, "lock")[::2] == (
        2,
        "error: no target is named and none is configured: name one, or list them in [tool.gradlint.targets]\n",
    )
    run(capsys, "lock", "model.py:build")
    assert run(capsys, "lock", "--check")[0] == 0


# -- what goes wrong --------------------------------------------------------------------------------------------


@each(
    ("text", "said"),
    [
        (None, "there is no lock gradlint.lock: `gradlint lock` writes it"),
        ("", "gradlint.lock:1: this is no gradlint lock"),
        ("{}", "gradlint.lock:1: this is no gradlint lock"),
        (
            "# gradlint lock, version 0\n[a.py:b]\n",
            "this lock is of version 0, and this gradlint knows 2: run `gradlint",
        ),
        ("# gradlint lock, version 7\n", "this lock is of version 7, and this gradlint knows 2: use the gradlint that"),
        ("# gradlint lock, version 2\nw  4  trains\n", "gradlint.lock:2: this line belongs to no target"),
        ("# gradlint lock, version 2\n[a.py:b]\nw 4 trains\n", "gradlint.lock:3: cannot be understood: 'w 4 trains'"),
        ("# gradlint lock, version 2\n[a.py:b]\nw  4  flies\n", "gradlint.lock:3: cannot be understood"),
        (
            "# gradlint lock, version 2\n[a.py:b]\nw  4  trains\nw  4  frozen\n",
            "gradlint.lock:4: w stands in a.py:b twice",
        ),
        ("# gradlint lock, version 2\n[a.py:b]\n[a.py:b]\n", "gradlint.lock:3: a.py:b stands in this lock twice"),
        (
            "# gradlint lock, version 2\n<<<<<<< ours\n[a.py:b]\n=======\n>>>>>>> theirs\n",
            "gradlint.lock:2: an unresolved merge conflict",
        ),
        (b"\xff\xfe#", "gradlint.lock: this is no gradlint lock: it is not UTF-8"),
    ],
)
def test_wrong_lock(project: Path, capsys: pytest.CaptureFixture[str], text: str | bytes | None, said: str) -> None:
    if text is not None:
        (project / "gradlint.lock").write_bytes(text if isinstance(text, bytes) else text.encode())
    for command in (["lock", "--check"], ["diff"]):
        code, out, err = run(capsys, *command)
        assert (code, out) == (2, "") and said in err.replace(f"{project}{os.sep}", "")


def test_a_broken_target_leaves_the_lock_as_it_was(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "lock")
    before = (project / "gradlint.lock").read_bytes()
    edit(project, "changed here", "raise ValueError('no data')")
    code, out, err = run(capsys, "lock")
    assert (code, out) == (2, "") and "raised ValueError: no data" in err and "gradlint.lock is left as it was" in err
    assert (project / "gradlint.lock").read_bytes() == before
    assert run(capsys, "lock", "--check")[0] == 2 and run(capsys, "diff")[0] == 2


def test_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gradlint.lock"
    write(path, [Snapshot("a.py:b", {"w": Entry("w", (4,), OutcomeKind.TRAINS)})])
    before = path.read_bytes()

    def fails(*args: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fails)
            with pytest.raises(LockError, match="cannot be written: No space left on device"):
                write(path, [Snapshot("other.py:b")])
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["gradlint.lock"]
    with pytest.raises(LockError, match="cannot be written"):
        write(tmp_path / "missing" / "gradlint.lock", [])


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_mode_of_the_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "gradlint.lock"
    write(path, [Snapshot("a.py:b")])
    path.chmod(0o640)
    write(path, [Snapshot("c.py:b")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_line_ends_of_another_system_are_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "gradlint.lock"
    text = render([Snapshot("a.py:b", {"w": Entry("w", (4,), OutcomeKind.TRAINS)})])
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read(path)["a.py:b"].entries["w"].outcome is OutcomeKind.TRAINS
    path.write_bytes(text.replace("\n", "\r\n").encode())
    assert write(path, [Snapshot("a.py:b", {"w": Entry("w", (4,), OutcomeKind.TRAINS)})]) is False


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
WORDS = st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True)
ENTRIES = st.builds(
    Entry,
    NAMES,
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.sampled_from(OutcomeKind),
    st.one_of(st.just(""), WORDS),
    st.lists(st.builds("{} lr={:g}".format, WORDS, st.floats(0, 1)), max_size=2).map(tuple),
)
NORMS = st.builds(Norm, st.one_of(st.just(""), NAMES), WORDS, st.booleans())


@given(st.lists(ENTRIES, max_size=6), st.lists(NORMS, max_size=3), WORDS, st.randoms())
def test_what_is_written_is_read(entries: list[Entry], norms: list[Norm], name: str, random: object) -> None:
    snapshot = Snapshot(f"{name}.py:build", {e.fqn: e for e in entries}, {n.fqn: n for n in norms})
    text = render([snapshot])
    back = parse(text, Path("x.lock"))[f"{name}.py:build"]
    assert (back.entries, back.norms) == (snapshot.entries, snapshot.norms)
    assert changes(snapshot, back) == [] and render([back]) == text
    mixed = list(snapshot.entries.items())
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert render([Snapshot(snapshot.target, dict(mixed), snapshot.norms)]) == text


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_crash_the_reader(data: bytes, headed: bool) -> None:
    text = ("# gradlint lock, version 2\n[a.py:b]\n" if headed else "") + data.decode("utf-8", "replace")
    try:
        parse(text, Path("x.lock"))
    except LockError as error:
        assert str(error).startswith("x.lock:")


def test_every_transition_has_words() -> None:
    for old in OutcomeKind:
        for new in OutcomeKind:
            before = Snapshot("t", {"w": Entry("w", (2,), old, "detach" if old is OutcomeKind.NO_GRADIENT else "")})
            after = Snapshot("t", {"w": Entry("w", (2,), new, "no_grad" if new is OutcomeKind.NO_GRADIENT else "")})
            after.why["w"] = ("because", Location("/m.py", 3))
            texts = [c.text for c in changes(before, after)]
            if old != new:
                assert len(texts) == 1 and texts[0].startswith("w (1 tensor, 2 parameters) ") and "because" in texts[0]
            else:
                assert len(texts) == (new is OutcomeKind.NO_GRADIENT)


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("model.py:build", "model.py:build"),
        ("./sub/../model.py:Net.make", "model.py:Net.make"),
        ("pkg.mod:b", "pkg.mod:b"),
    ],
)
def test_keys_are_the_same_however_a_target_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert key_of(target, tmp_path) == key == key_of(target_of(key, tmp_path), tmp_path)
