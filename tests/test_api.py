"""The Python API: what may be given to check and trace, what comes back, and that nothing of the user's is changed."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx
from cases import each
from torch import nn

import gradlint
from gradlint.lazy import modules_of
from gradlint.location import Code, Location
from gradlint.traces.sites import Frame, is_project

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gradlint", "gradlint.flow", "gradlint.rulekit", "gradlint.source", "gradlint.traces")
"""The packages whose names are for users and for authors of rules."""
SHIPPED = f"{ROOT / 'fixtures' / 'founding' / 'detach_in_chain.py'}:build"


class Cut(nn.Module):
    """Detaches between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(x)).detach()
        return self.last(hidden.relu())


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Cut()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def given(kind: str) -> Any:
    model, optimizer = build()
    return {
        "model": model,
        "pair": (model, optimizer),
        "dict": {"model": model, "inputs": (torch.ones(2, 4),), "loss": torch.mean},
        "setup": gradlint.Setup(model, (torch.ones(2, 4),), optimizer, torch.mean),
        "function": build,
        "class": Cut,
        "target": SHIPPED,
    }[kind]


@pytest.mark.parametrize("kind", ["model", "pair", "dict", "setup", "function", "class", "target"])
def test_check(kind: str) -> None:
    report = gradlint.check(given(kind))
    assert isinstance(report, gradlint.Report) and not report.clean
    [finding] = report.findings
    assert (finding.code, finding.severity) == ("GL401", gradlint.Severity.ERROR)
    assert finding.location is not None and finding.location.line > 0
    assert (report.errors, len(report.targets)) == ([], 1)


@pytest.mark.parametrize("kind", ["model", "pair", "dict", "setup", "function", "target"])
def test_trace(kind: str) -> None:
    trace = gradlint.trace(given(kind))
    assert isinstance(trace, gradlint.Trace)
    graph = gradlint.fx_graph(trace)
    assert isinstance(graph, torch.fx.Graph)
    graph.lint()
    assert "detach" in str(graph)
    cut = next(node for node in graph.nodes if "detach" in node.name)
    assert cut.meta["requires_grad_in"] == (True,) and cut.meta["requires_grad_out"] == (False,)
    assert cut.meta["location"].path.endswith(".py") and cut.meta["op"] in trace.ops


def test_clean() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    report = gradlint.check((model, torch.optim.SGD(model.parameters(), lr=0.1)), name="mine")
    assert report.clean, report.findings
    assert report.targets[0].target == "mine" and report.targets[0].optimizers == (("SGD", 4),)


def test_options() -> None:
    assert gradlint.check(build, ignore=["GL4"]).findings == []
    assert gradlint.check(build, select=["unused-parameter"]).findings == []
    assert gradlint.check(build, inputs=["3,4"]).targets[0].inputs == "float32[3, 4] (given by --input)"
    with pytest.raises(gradlint.UsageError, match="did you mean GL401"):
        gradlint.check(build, select=["GL4O1"])


class Taught(nn.Module):
    """A student and a mean teacher, both made before gradlint looks."""

    def __init__(self, fresh: bool) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.teacher = copy.deepcopy(self.student)
        if not fresh:
            nn.init.normal_(self.teacher[0].weight)
        self.teacher.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        with torch.no_grad():
            target = self.teacher(x)
        return (self.student(x) - target).square().mean()


@pytest.mark.parametrize(("fresh", "codes"), [(True, set()), (False, {"GL201"})])
def test_fresh_copies_made_elsewhere_are_told_by_their_values(fresh: bool, codes: set[str]) -> None:
    model = Taught(fresh)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    report = gradlint.check({"model": model, "inputs": (torch.randn(8, 6),), "optimizer": optimizer})
    assert {f.code for f in report.findings if f.severity > gradlint.Severity.INFO} == codes


def test_fault_of_the_users_is_in_the_report() -> None:
    def raises() -> None:
        raise ValueError("no data")

    [failure] = gradlint.check(raises).errors
    assert "raised ValueError: no data" in failure.message
    assert "in raises" in failure.traceback and "engine.py" not in failure.traceback
    with pytest.raises(gradlint.TargetError, match="no data"):
        gradlint.trace(raises)


def test_generator_is_closed() -> None:
    log: list[str] = []

    def make() -> Any:
        try:
            yield build()
        finally:
            log.append("closed")

    assert [f.code for f in gradlint.check(make).findings] == ["GL401"] and log == ["closed"]


def test_users_objects_are_unchanged() -> None:
    model, optimizer = build()
    model.norm.eval()
    model.first.weight.grad = torch.full_like(model.first.weight, 7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    group = dict(optimizer.param_groups[0])
    parameters = list(model.parameters())

    gradlint.check((model, optimizer))
    gradlint.trace((model, optimizer))

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    assert model.first.weight.grad is not None and bool((model.first.weight.grad == 7).all())
    assert all(p.grad is None for p in parameters if p is not model.first.weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {key: optimizer.param_groups[0][key] for key in group} == group and not optimizer.state
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@each("module", ["torch", "rich", "click", "numpy", "importlib.metadata"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, gradlint; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_module_hides_a_public_name() -> None:
    # importing gradlint.x binds gradlint.x to the module, whatever it was before
    for package in PACKAGES:
        folder = ROOT.joinpath(*package.split("."))
        importlib.import_module(package)
        assert not {path.stem for path in folder.glob("*")} & modules_of(package).keys()


@each("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert set(modules_of(package)) <= set(dir(module))
    for name in modules_of(package):
        assert getattr(module, name) is not None


def test_help_says_what_attributes_mean() -> None:
    assert "    code: For example ``GL401``." in pydoc.plain(pydoc.render_doc(gradlint.Finding))
    assert "    ERROR: Training is wrong." in str(gradlint.Severity.__doc__)


def test_help_has_attributes_of_base_classes_once() -> None:
    text = str(importlib.import_module("gradlint.traces").Freeze.__doc__)
    assert text.count("Attributes:") == text.count("    site: ") == 1


def test_a_name_has_one_place() -> None:
    names = [name for package in PACKAGES for name in modules_of(package)]
    assert len(names) == len(set(names)) and len(modules_of("gradlint")) <= 43
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gradlint.nothing  # type: ignore[attr-defined]


def test_comments_silence_findings(tmp_path, monkeypatch):
    """A comment on the blamed line counts for the functions as it does for the command."""
    monkeypatch.chdir(tmp_path)
    text = "import torch\ndef build():\n    m = torch.nn.Linear(2, 2)\n    m.requires_grad = False{}\n    return m\n"
    (tmp_path / "m.py").write_text(text.format(""))
    assert [f.code for f in gradlint.check("m.py:build", inputs=["2,2"]).findings] == ["GL102"]
    (tmp_path / "m.py").write_text(text.format("  # gradlint: ignore[GL102]"))
    report = gradlint.check("m.py:build", inputs=["2,2"])
    assert (report.findings, report.silenced) == ([], 1)


# -- inputs -----------------------------------------------------------------------------------------------------------


class Scaled(Cut):
    """Writes into its input, and takes a second one."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        out = super().forward(x.add_(1))
        return out if scale is None else out * scale


X = torch.zeros(2, 4)
INPUTS: dict[str, tuple[Any, str]] = {
    "a text": ("3,4", "float32[3, 4] (given by --input)"),
    "a shape": ((3, 4), "float32[3, 4] (given)"),
    "the size of a tensor": (X.shape, "float32[2, 4] (given)"),
    "a tensor": (X, "float32[2, 4] (given)"),
    "several": ([X, (2, 1)], "float32[2, 4], float32[2, 1] (given)"),
    "a text among others": ([X, "2,1"], "float32[2, 4], float32[2, 1] (given)"),
    "names": ({"x": (3, 4), "scale": "3,1"}, "x=float32[3, 4], scale=float32[3, 1] (given)"),
}


@each("kind", INPUTS)
def test_inputs_are_texts_tensors_and_shapes(kind: str) -> None:
    inputs, described = INPUTS[kind]
    report = gradlint.check(Scaled(), inputs=inputs)
    assert (report.errors, report.targets[0].inputs) == ([], described)
    assert [f.code for f in report.findings] == ["GL401"]


def test_a_tensor_that_is_given_is_left_as_it_was() -> None:
    given = torch.zeros(2, 4)
    gradlint.check(Scaled(), inputs=[given])
    assert torch.equal(given, torch.zeros(2, 4))


def test_inputs_by_the_names_of_models() -> None:
    report = gradlint.check({"model": {"one": Cut(), "two": Cut()}}, inputs={"one": (2, 4), "two": torch.ones(3, 4)})
    assert report.targets[0].inputs == "one: float32[2, 4] (given); two: float32[3, 4] (given)"


REFUSED: dict[str, Any] = {
    "a number": 5,
    "none among others": [X, None],
    "an array": X.numpy(),
    "a fraction": (2.0, 4),
    "a size of zero": (0, 4),
    "a list of lists": [[X]],
    "a name that is none": {1: X},
    "a name in a text among tensors": [X, "scale=2,1"],
    "nothing for a name": {"x": []},
}


@each("kind", REFUSED)
def test_other_inputs_are_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises(gradlint.UsageError, match=r"^inputs.*(tensors, shapes|as the keys of a dict)"):
        gradlint.check(Scaled(), inputs=REFUSED[kind])


# -- code without a file ----------------------------------------------------------------------------------------------

TYPED = """
import torch, gradlint
from torch import nn

class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.first(x).detach())

report = gradlint.check({"model": Typed(), "inputs": (torch.ones(2, 3),), "loss": torch.mean})
"""


@each("name", ["<string>", "<stdin>", "<ipython-input-3-0af>", "<doctest page[2]>", "<unknown>"])
def test_code_without_a_file_is_the_users(name: str) -> None:
    scope: dict[str, Any] = {"__name__": "typed"}
    exec(compile(TYPED, name, "exec"), scope)
    [finding] = scope["report"].findings
    assert (finding.code, finding.severity) == ("GL401", gradlint.Severity.ERROR)
    assert finding.location is not None and finding.location.line == 11


@each("name", ["<eval_with_key>.0", "<frozen importlib>", "<decorator-gen-3>", "<attrs generated init a.B>"])
def test_code_that_a_library_generated_is_not_the_users(name: str) -> None:
    assert not is_project(name)


def test_what_dataclasses_generate_is_not_the_users() -> None:
    made = dataclasses.make_dataclass("Made", ["x"]).__init__.__code__  # type: ignore[misc]
    frame = Frame(made.co_filename, getattr(made, "co_qualname", "__create_fn__"), Code.of(made), Location("", 1))
    assert not frame.project


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_a_report_prints_like_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = gradlint.check(SHIPPED)
    assert str(report).startswith("GL401 detached-upstream  error\n") and str(report).endswith("\n1 error\n")
    report.show()
    assert capsys.readouterr().out == str(report)


def test_a_report_is_json() -> None:
    report = gradlint.check(SHIPPED)
    assert json.loads(report.to_json()) == report.to_dict()
    assert [f["code"] for f in report.to_dict()["findings"]] == ["GL401"]


def test_a_summary_prints_like_the_command_line() -> None:
    summary = gradlint.summary(SHIPPED)
    assert "trains, SGD lr" in str(summary) and "1 finding: GL401" in str(summary)
    assert [t["totals"]["tensors"] for t in summary.to_dict()["targets"]] == [8]
    assert json.loads(summary.to_json()) == summary.to_dict()


def test_a_summary_of_what_fails_says_so() -> None:
    assert str(gradlint.summary("nowhere.at.all:build")).startswith("error nowhere.at.all:build\n")


def test_a_trace_prints_numbers() -> None:
    lines = str(gradlint.trace(given("setup"))).splitlines()
    assert len(lines) < 10 and "1 error" not in lines
    assert "parameters: 6 tensors, 33 parameters: gradient reaches 2, 0 frozen" in lines[4]


@each("kind", ["check", "summary", "trace", "gradient_map"])
def test_notebooks_get_html_and_text(kind: str) -> None:
    shown = getattr(gradlint, kind)(SHIPPED)
    bundle = shown._repr_mimebundle_()
    assert bundle == {"text/plain": str(shown), "text/html": shown._repr_html_()}
    assert bundle["text/html"].startswith('<div class="gradlint">') and "<script" not in bundle["text/html"]


def test_a_map_prints_as_a_flowchart() -> None:
    assert str(gradlint.gradient_map(SHIPPED)).startswith("flowchart TD\n")


def test_a_map_is_saved_in_the_format_of_the_suffix(tmp_path: Path) -> None:
    drawn = gradlint.gradient_map(SHIPPED)
    drawn.save(str(tmp_path / "flow.svg"))
    assert (tmp_path / "flow.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_map_of_what_fails_says_so(tmp_path: Path) -> None:
    drawn = gradlint.gradient_map("nowhere.at.all:build")
    assert str(drawn).startswith("error nowhere.at.all:build\n")
    with pytest.raises(gradlint.GradlintError, match="there is no map"):
        drawn.save(str(tmp_path / "flow.svg"))


def test_a_map_is_refused_in_another_format(tmp_path: Path) -> None:
    with pytest.raises(gradlint.UsageError, match="the suffix decides"):
        gradlint.gradient_map(SHIPPED).save(str(tmp_path / "flow.pdf"))
