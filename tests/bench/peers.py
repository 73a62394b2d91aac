"""What other checkers of models say of the same mistakes, and of correct code.

    python tests/bench/peers.py [PEER ...] [--corpus FOLDER] [--sample 8] [--install FOLDER]

Runs torchtest, torchtest2, torcheck, torch-audit and TorchFix beside gradlint over one in `--sample` of the builders in
fixtures/, or over a folder of ``bad/*.py`` and ``good/*.py`` (see tests/kit/corpus.py). Each peer is installed into a
folder of its own, and sees each setup in a process of its own. An adapter gives it what its documentation asks for: the
model, the inputs, the loss, the optimizer, and the calls of one training step. What a peer cannot be given is counted
apart: several networks or optimizers, a step of the user's own, no optimizer.

Columns: the mistakes that can be given to it; those in which it reports anything at all, those in which it names a
parameter that is at fault, and those in which it names the line; the correct setups given to it, and those in which it
reports something. TorchFix reads files and reports on lines alone, so its reports count where they stand in the
function of the setup.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "kit"))

PEERS = {
    "torchtest": ["--no-deps", "torchtest==0.5"],
    "torchtest2": ["--no-deps", "torchtest2==0.1.0"],
    "torcheck": ["--no-deps", "torcheck==1.0.1"],
    "torch-audit": ["--no-deps", "torch-audit==0.3.0"],
    "TorchFix": ["torchfix==0.7.0"],
    "gradlint": [],
}
SECONDS = 30
"""That a peer gets for one setup."""


@dataclass(frozen=True)
class Case:
    """One setup, and what is wrong with it."""

    path: Path
    name: str
    bad: bool
    parameters: tuple[str, ...]
    """Names or globs of the parameters at fault."""
    lines: tuple[int, ...]
    allowed: frozenset[str] = frozenset()
    """Codes of gradlint that may warn in a correct one."""


class NotExpressible(Exception):
    """There is no way to give a setup to a peer."""


def cases(corpus: Path | None, sample: int) -> Iterator[Case]:
    """Yield the setups of a folder, or of the fixtures."""
    if corpus is not None:
        import corpus as kit

        for path in (*sorted(corpus.glob("bad/*.py")), *sorted(corpus.glob("good/*.py"))):
            case = kit.read(path)
            yield Case(path, "build", case.bad, tuple(case.parameters), tuple(case.lines), case.allowed)
        return
    import table

    for builder in (b for path in sorted(table.FIXTURES.glob("*.py")) for b in table.builders(path, "bad_", "good_")):
        if zlib.crc32(builder.id.encode()) % sample == 0:
            told = [a for a in builder.annotations if a.severity != "info"]
            patterns = tuple(pattern for a in told for pattern in a.patterns)
            yield Case(builder.path, builder.name, builder.bad, patterns, tuple(a.line for a in told))


# -- adapters: each returns what the peer told, "" for nothing --------------------------------------------------------


def parts(case: Case) -> tuple[Any, tuple[Any, ...], Callable[[Any], Any], Any]:
    """Return (model, inputs, loss, optimizer) of a setup.

    Raises:
        NotExpressible: it has not one of each, or more.
    """
    import importlib.util

    import torch

    spec = importlib.util.spec_from_file_location(f"case_{zlib.crc32(str(case.path).encode())}", case.path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    setup = getattr(module, case.name)()
    if not isinstance(setup, dict) or setup.get("step") is not None:
        raise NotExpressible
    model, optimizer, loss = setup.get("model"), setup.get("optimizer"), setup.get("loss")
    inputs = setup.get("inputs")
    if not isinstance(model, torch.nn.Module) or not isinstance(optimizer, torch.optim.Optimizer) or loss is None:
        raise NotExpressible
    if not isinstance(inputs, tuple) or not inputs:
        raise NotExpressible
    return model, inputs, loss, optimizer


def torchtest(case: Case) -> str:
    import torch
    from torchtest import assert_vars_change

    model, inputs, loss, optimizer = parts(case)

    class One(torch.nn.Module):
        """The model as one that takes its first input alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, first: Any) -> Any:
            return self.model(first, *inputs[1:])

    batch = [inputs[0], torch.zeros(1)]
    try:
        assert_vars_change(One(), lambda output, _: loss(output), optimizer, batch, "cpu")
    except Exception as error:
        if type(error).__name__ == "VariablesChangeException":
            return str(error)
        raise
    return ""


def torchtest2(case: Case) -> str:
    import torchtest2

    model, inputs, loss, optimizer = parts(case)
    report = torchtest2.check_model(model, inputs, loss_fn=loss, optimizer=optimizer)
    return "\n".join(f"{result.name}: {result.message}" for result in (*report.failures, *report.warnings))


def torcheck(case: Case) -> str:
    import torcheck as peer

    model, inputs, loss, optimizer = parts(case)
    peer.register(optimizer)
    try:
        peer.add_module(model, changing=True)
        for _ in range(2):
            optimizer.zero_grad()
            loss(model(*inputs)).backward()
            optimizer.step()
    except RuntimeError as error:
        if "doesn't belong to any optimizer" in str(error) or "errors are detected while training" in str(error):
            return str(error)
        raise
    return ""


def torch_audit(case: Case) -> str:
    from torch_audit import Auditor, Severity

    model, inputs, loss, optimizer = parts(case)
    auditor = Auditor(model, optimizer=optimizer)
    with auditor:
        auditor.audit_static()
        auditor.audit_init()
        auditor.backward(loss(auditor.forward(*inputs)))
        auditor.optimizer_step()
    found = [finding for finding in auditor.finish().findings if finding.severity is not Severity.INFO]
    return "\n".join(f"{f.rule_id} {f.module_path or ''} {f.entity or ''}: {f.message}" for f in found)


def torchfix(case: Case) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "torchfix", "--select", "ALL", str(case.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    tree = ast.parse(case.path.read_text(encoding="utf-8"))
    spans = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == case.name
    ]
    told = []
    for line in done.stdout.splitlines():
        pieces = line.split(":", 3)
        if len(pieces) == 4 and pieces[1].isdigit():
            number = int(pieces[1])
            if number in case.lines or any(number in span for span in spans):
                told.append(f"line {number}:{pieces[3]}")
    return "\n".join(told)


def gradlint(case: Case) -> str:
    from gradlint import Severity
    from gradlint.engine.check import Options, check_target
    from gradlint.rulekit import registry

    parts(case)  # counted over the same setups
    report = check_target(f"{case.path}:{case.name}", registry.load(packs=False).rules, Options(numeric=True))
    if report.errors:
        raise RuntimeError(report.errors[0].message)
    loud = [f for f in report.findings if f.severity is not Severity.INFO and f.code not in case.allowed]
    return "\n".join(
        f"line {place.line}: {f.code} {' '.join(f.parameters)}"
        for f in loud
        for place in (f.location, *(r.location for r in f.related))
        if place is not None
    )


ADAPTERS = {
    "torchtest": torchtest, "torchtest2": torchtest2, "torcheck": torcheck, "torch-audit": torch_audit,
    "TorchFix": torchfix, "gradlint": gradlint,
}  # fmt: skip


# -- running ----------------------------------------------------------------------------------------------------------


def told_by(peer: str, case: Case) -> dict[str, Any]:
    """Return what a peer says of one setup, from a fork of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.close(reading)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            try:
                row: dict[str, Any] = {"told": ADAPTERS[peer](case)}
            except NotExpressible:
                row = {"skipped": True}
            except BaseException as error:
                row = {"failed": f"{type(error).__name__}: {error}"[:200]}
        os.write(writing, json.dumps(row).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    try:
        return dict(json.loads(data))
    except ValueError:
        return {"failed": f"no answer within {SECONDS} s"}


def row_of(peer: str, every: list[Case]) -> list[str]:
    """Return the row of one peer."""
    counts = dict.fromkeys(("bad", "found", "named", "line", "good", "alarms", "failed"), 0)
    for case in every:
        answer = told_by(peer, case)
        if "skipped" in answer:
            continue
        counts["bad" if case.bad else "good"] += 1
        if "failed" in answer:
            counts["failed"] += 1
            continue
        told = answer["told"]
        words = {word.strip("'\",:.()[]`").removeprefix("model.") for word in told.split()}
        if not case.bad:
            counts["alarms"] += bool(told)
        elif told:
            counts["found"] += 1
            counts["named"] += any(fnmatch.filter(words, pattern) for pattern in case.parameters)
            counts["line"] += any(f"line {line}:" in told for line in case.lines)
    return [str(counts[key]) for key in ("bad", "found", "named", "line", "good", "alarms", "failed")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help="those to run; all if none is named")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--install", type=Path, help="keep the peers in this folder")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        import torch

        torch.set_num_threads(1)
        with contextlib.suppress(ImportError):
            import transformers  # noqa: F401  # once, not in each fork
        print("| " + " | ".join([given.peer, *row_of(given.peer, list(cases(given.corpus, given.sample)))]) + " |")
        return
    with tempfile.TemporaryDirectory() as scratch:
        print("| | mistakes given | anything said | parameter named | line named | correct given | alarms | failed |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for peer, packages in ((name, PEERS[name]) for name in given.peers or PEERS):
            folder = (given.install or Path(scratch)) / peer
            if packages and not folder.exists():
                install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *packages]
                subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            again = [sys.executable, __file__, "--peer", peer, "--sample", str(given.sample)]
            again += ["--corpus", str(given.corpus.resolve())] if given.corpus else []
            paths = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                again, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
            )
            print(
                done.stdout.strip().splitlines()[-1] if done.stdout.strip() else f"| {peer} | {done.stderr[-300:]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
