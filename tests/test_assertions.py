"""The assertions of the pytest plugin as a user meets them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tested_project import inside, project, run_test, words

__all__ = ["project"]

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
MANUAL = (ROOT / "gradlint" / "cli" / "manual.md").read_text(encoding="utf-8")


HOLDS = [
    "assert gradlint.check(build).clean",
    "assert gradlint.check(build, select='GL405', frozen='encoder.*').findings == []",
    "gradlint.assert_clean(build)",
    "gradlint.assert_clean('model.py:build', ignore=['GL2'])",
    "gradlint.assert_clean(build_frozen, frozen='encoder.*', trains=['head.*', 'aux.*'])",
    "gradlint.assert_trains(build, 'head.*', 'encoder.0.weight')",
    "gradlint.assert_trains(Net(), '*')",
    "gradlint.assert_frozen(build_frozen, 'encoder.*')",
    "gradlint.assert_frozen((Net().requires_grad_(False)), '*')",
    "gradlint.assert_gradient_flows(build, to='*')",
    "gradlint.assert_gradient_flows(build, to=['encoder.*', 'head.*'], from_output='logits')",
    "gradlint.assert_gradient_flows(build, to='aux.*', from_output='aux.0')",
    "gradlint.assert_gradient_flows(build, to='head.*', from_output=lambda out: out['logits'][:, 1])",
    "gradlint.assert_no_gradient(build, to='encoder.*', from_output='aux')",
    "gradlint.assert_no_gradient(build, to=['aux.*'], from_output=lambda out: out['logits'])",
    "gradlint.assert_no_gradient(build_frozen, to='encoder.*')",
]


def test_assertions_hold(project: pytest.Pytester) -> None:
    run_test(project, *HOLDS).assert_outcomes(passed=len(HOLDS))


FAILS = [
        (
            "gradlint.assert_clean(partial(build_frozen, norm=True))",
            [
                "assert_clean: GL201",
                "GL201 frozen-norm-updates-stats error",
                "model.py:",
                "encoder.1",
                "build_frozen(norm=True): 8 tensors, 101 parameters: ",
            ],
        ),
        (
            "gradlint.assert_trains(build_frozen, 'encoder.*', 'head.*')",
            [
                "assert_trains: 2 tensors declared to train, not training",
                "GL701 declared-trainable-does-not-train error",
                "| model.encoder.requires_grad_(False) # the freeze",
                "encoder.* (2 tensors, 40 parameters) are declared trainable ('encoder.*') but frozen.",
                "fix: ",
            ],
        ),
        (
            "gradlint.assert_trains(partial(setup, Net(), rate=0.0), 'head.bias')",
            ["head.bias (1 tensor, 2 parameters) is declared trainable ('head.bias') but does not train: "
             "the learning rate is 0."],
        ),
        (
            "gradlint.assert_trains({**build(), 'loss': None, 'step': print}, 'head.*')",
            [
                "assert_trains: step() ran no backward pass: let it call backward() and step the optimizer",
            ],
        ),
        (
            "gradlint.assert_frozen(build, 'encoder.*')",
            [
                "assert_frozen: 2 tensors declared frozen, moving",
                "GL702 declared-frozen-trains error",
                "| optimizer = torch.optim.SGD(",
                "encoder.* (2 tensors, 40 parameters) are declared frozen ('encoder.*') but would change: "
                "reached by gradient",
                "gradient reaches them through this line: model.py:",
                "| h = self.encoder(x)",
            ],
        ),
        (
            "gradlint.assert_frozen(partial(build_frozen, norm=True), 'encoder.*')",
            ["encoder.1 is declared frozen ('encoder.*') but in train mode: every batch changes the running"],
        ),
        (
            "gradlint.assert_gradient_flows(build, to='*', from_output='aux')",
            [
                "assert_gradient_flows: 4 tensors without gradient",
                "self.aux(h.detach())",
                "no gradient reaches encoder.* (2 tensors, 40 parameters): detach() cuts the gradient path.",
                "no gradient reaches head.* (2 tensors, 18 parameters): the result of linear is dropped.",
            ],
        ),
        (
            "gradlint.assert_no_gradient(build, to='encoder.*', from_output='logits')",
            [
                "assert_no_gradient: 2 tensors with gradient",
                "| h = self.encoder(x)",
                "gradient reaches encoder.* (2 tensors, 40 parameters).",
                "on its path: model.py:",
            ],
        ),
        (
            "gradlint.assert_gradient_flows(build, to='encoder.*', from_output='logit')",
            ["from_output='logit': dict has no 'logit'; it has logits, aux, label"],
        ),
        (
            "gradlint.assert_gradient_flows(build, to='encoder.*', from_output='label')",
            ["picks is a tensor of torch.int64 and holds no floating-point tensor"],
        ),
        (
            "gradlint.assert_trains(build, 'hed.*')",
            [
                "assert_trains: a pattern matches nothing",
                "no parameter matches 'hed.*', declared trainable: did you mean 'head.*'?",
            ],
        ),
        (
            "gradlint.assert_no_gradient(build, to='encoder')",
            ["no parameter matches 'encoder': it is a module, write 'encoder.*'"],
        ),
        (
            "gradlint.assert_frozen(build_raises, '*')",
            ["assert_frozen: build_raises() raised ValueError: no data", "ValueError: no data"],
        ),
        (
            "gradlint.assert_gradient_flows('model.py:build_raises', to='*')",
            ["raised ValueError: no data", "in build_raises"],
        ),
        (
            "gradlint.assert_clean('model.py:bild')",
            ["model.py has no attribute 'bild': did you mean 'build'?"],
        ),
        (
            "gradlint.assert_clean(build_frozen, frozen=['encoder.*'], trains=['encoder.*'])",
            ["the contract contradicts itself: trains 'encoder.*' and frozen 'encoder.*'"],
        ),
]  # fmt: skip


def test_assertions_fail(project: pytest.Pytester, subtests: pytest.Subtests) -> None:
    result = run_test(project, *(body for body, _ in FAILS))
    result.assert_outcomes(failed=len(FAILS))
    shown = re.split(r"(?m)^_+ test_it_\d+ _+$|^=+ short test summary", "\n".join(result.outlines))[1:]
    for (body, pieces), text in zip(FAILS, map(words, shown), strict=False):
        with subtests.test(msg=body):
            assert [piece for piece in pieces if piece not in text] == [], text
            # what is shown of the traceback is the user's line, and none of gradlint's own
            assert f"> {body}" in text and "assertions.py" not in text


def test_exact_zero_is_no_gradient_and_zero_at_first_is(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it=r"""
        import pytest, torch
        from torch import nn

        class Lora(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
                nn.init.zeros_(self.b.weight)

            def forward(self, x):
                return x + self.b(self.a(x))

        class Residual(nn.Module):
            '''What is left after a straight-through step: the input cancels.'''

            def __init__(self):
                super().__init__()
                self.encoder = nn.Linear(4, 4)

            def forward(self, x):
                x = self.encoder(x)
                quantized = x + (x.round() - x).detach()
                rest = x - quantized
                return x, (rest - 1).pow(2).mean()

        def build_lora():
            return {"model": Lora(), "inputs": (torch.randn(3, 4),)}

        def build_residual():
            return {"model": Residual(), "inputs": (torch.randn(3, 4),)}

        def test_lora(gradlint):
            gradlint.assert_gradient_flows(build_lora, to="a.weight")

        def test_residual(gradlint):
            gradlint.assert_gradient_flows(build_residual, to="encoder.*", from_output=0)
            gradlint.assert_no_gradient(build_residual, to="encoder.*", from_output=1)
            with pytest.raises(AssertionError, match="and zero in every"):
                gradlint.assert_gradient_flows(build_residual, to="encoder.*", from_output=1)
        """
    )
    inside(project).assert_outcomes(passed=2)


def test_all_offending_parameters_are_named(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
        import torch
        from torch import nn

        def build():
            model = nn.ModuleDict({f"part{'abcdefghijklmnopqrstuvwxyz'[i]}": nn.Linear(2, 2) for i in range(20)})
            net = nn.Sequential(*model.values())
            for i, p in enumerate(net.parameters()):
                p.requires_grad = i % 3 == 0
            return {"model": net, "inputs": (torch.randn(2, 2),)}

        def test_it(gradlint):
            gradlint.assert_trains(build, "*")
        """
    )
    result = inside(project)
    names = [f"{i // 2}.{'bias' if i % 2 else 'weight'}" for i in range(40) if i % 3]
    text = words(str(result.stdout))
    listed = text.partition("parameters: ")[2]
    assert not [n for n in names if n not in listed and f"{n.split('.')[0]}.*" not in listed], text


def test_users_own_assertions_are_rewritten(project: pytest.Pytester) -> None:
    result = run_test(project, "assert gradlint.check(build_frozen, trains='encoder.*').clean")
    result.stdout.fnmatch_lines([">*assert gradlint.check(build_frozen*", "E*assert False", "E*where False = Report(*"])


def test_users_objects_stay_as_they_were(project: pytest.Pytester) -> None:
    run_test(
        project,
        """model, before = Net(norm=True), None
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = setup(model)
    gradlint.assert_trains(made, '*')
    gradlint.assert_gradient_flows(made, to='encoder.*', from_output='logits')
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and made['loss'] is not None""",
    ).assert_outcomes(passed=1)


def test_founding_rows(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it=f"""
        import pytest

        F4 = {str(ROOT / "fixtures" / "founding" / "encoder_generator.py")!r} + ":build_f4"

        def test_a(gradlint):
            gradlint.assert_clean(F4 + "a", frozen="encoder.*", trains="generator.*")
            gradlint.assert_frozen(F4 + "a", "encoder.*")
            gradlint.assert_trains(F4 + "a", "generator.*")
            gradlint.assert_gradient_flows(F4 + "a", to="generator.*")
            gradlint.assert_no_gradient(F4 + "a", to="encoder.*")

        def test_b(gradlint):
            gradlint.assert_trains(F4 + "b", "scale")
            gradlint.assert_no_gradient(F4 + "b", to="generator.*")
            gradlint.assert_trains(F4 + "b", "generator.*")

        def test_c(gradlint):
            gradlint.assert_frozen(F4 + "c", "encoder.*")
        """
    )
    result = inside(project)
    result.assert_outcomes(passed=1, failed=2)
    text = words(str(result.stdout))
    assert (
        "generator.* (4 tensors, 164 parameters) are declared trainable ('generator.*') but do not train: no_grad"
        in text
    )
    assert "| with torch.no_grad(): # error" in text
    assert "encoder.* (4 tensors, 160 parameters) are declared frozen ('encoder.*') but would change" in text
    assert "| return self.encoder(self.generator(code)), code" in text


def test_readme(project: pytest.Pytester) -> None:
    contract, test = (
        re.search(rf"```{language}\n({first}.*?)```", MANUAL, re.S)
        for language, first in (("toml", r"\[tool.gradlint.targets"), ("python", "def test_what_trains"))
    )
    assert contract is not None and test is not None
    assert max(contract[1].count("\n"), test[1].count("\n")) <= 5
    project.makepyprojecttoml(contract[1])
    project.makepyfile(
        test_it=test[1],
        model="""
        import torch
        from torch import nn

        class Adapted(nn.Module):
            def __init__(self):
                super().__init__()
                self.base_layer = nn.Linear(4, 4).requires_grad_(False)
                self.lora_a, self.lora_b = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
                nn.init.zeros_(self.lora_b.weight)

            def forward(self, x):
                return self.base_layer(x) + self.lora_b(self.lora_a(x))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = nn.Sequential(Adapted(), nn.Tanh(), Adapted())
                self.classifier, self.teacher = nn.Linear(4, 2), nn.Linear(4, 2).requires_grad_(False)

            def forward(self, x):
                return {"logits": self.classifier(self.encoder(x)), "wanted": self.teacher(x)}

        def build():
            model = Net()
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
            return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer,
                    "loss": lambda out: (out["logits"] - out["wanted"]).pow(2).mean()}
        """,
    )
    inside(project, "--gradlint").assert_outcomes(passed=2)
