"""The names that gradlint uses of torch beyond its public interface: each is there, and no other is used.

Where a name is gone in a newer torch, its test says what to look at; the code that uses it has a fallback.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import each
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.utils import _python_dispatch

optimizer_hooks = sys.modules["torch.optim.optimizer"]  # the package hides its module

SOURCE = Path(__file__).resolve().parent.parent / "gradlint"


class Double(torch.autograd.Function):
    """Any custom Function."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * 2


def _leaf() -> Any:
    return torch.ones(2, requires_grad=True)


def _custom_node() -> Any:
    return Double.apply(_leaf()).grad_fn


def _rounding_node() -> Any:
    return torch.div(_leaf(), 2, rounding_mode="floor").grad_fn


NAMES: dict[str, tuple[Callable[[], Any], str]] = {
    "_parameters": (lambda: nn.Linear(1, 1), "the tree of modules"),
    "_buffers": (lambda: nn.Linear(1, 1), "the tree of modules"),
    "_modules": (lambda: nn.Linear(1, 1), "the tree of modules"),
    "_non_persistent_buffers_set": (lambda: nn.Linear(1, 1), "registrations are put back"),
    "_version": (_leaf, "whether a tensor was written to"),
    "_indices": (lambda: _leaf().to_sparse(), "what a sparse tensor consists of"),
    "_values": (lambda: _leaf().to_sparse(), "what a sparse tensor consists of"),
    "_cdata": (lambda: _leaf().untyped_storage(), "which tensors share memory"),
    "_post_accumulate_grad_hooks": (_leaf, "a backward that proves a verdict runs no hook of the user's"),
    "_forward_cls": (lambda: type(_custom_node()), "the class of a custom Function's node"),
    "_saved_rounding_mode": (_rounding_node, "divisions that round have no gradient"),
    "_sequence_nr": (_custom_node, "the graph of an earlier step is told from this step's"),
    "_schema": (lambda: torch.ops.aten.add_.Tensor, "what a custom operator writes to"),
    "_C": (lambda: torch, "see _functorch and _set_grad_enabled"),
    "_VariableFunctions": (lambda: torch._C, "getters that are passed through unrecorded"),
    "_functorch": (lambda: torch._C, "what is inside the wrappers of torch.func"),
    "_autograd": (lambda: torch._C, "the number of the next node"),
    "_saved_self": (lambda: torch.ones(1, requires_grad=True).log().grad_fn, "what autograd has saved"),
    "_current_graph_task_id": (lambda: torch._C, "operations of backward are told from those of forward"),
    "_current_autograd_node": (lambda: torch._C, "gradients of inputs are told from those of weights"),
    "_set_grad_enabled": (lambda: torch._C, "grad-mode switches are seen"),
    "_GLOBAL_DEVICE_CONTEXT": (lambda: torch, "the default device is put back"),
    "_get_torch_function_state": (lambda: torch._C, "torch calls reach modes as before"),
    "_set_torch_function_state": (lambda: torch._C, "torch calls reach modes as before"),
    "_device": (lambda: torch.utils, "the default device is put back"),
    "_get_current_function_mode_stack": (lambda: torch.overrides, "the stack of function modes is put back"),
    "_get_current_dispatch_mode_stack": (lambda: _python_dispatch, "the stack of dispatch modes is put back"),
    "_pop_mode": (lambda: torch.overrides, "the recorder is taken off from below a mode of the user's"),
    "_push_mode": (lambda: torch.overrides, "the recorder is taken off from below a mode of the user's"),
    "_top_saved_tensors_default_hooks": (lambda: torch._C._autograd, "the hooks of saved tensors are put back"),
    "_pop_saved_tensors_default_hooks": (lambda: torch._C._autograd, "the hooks of saved tensors are put back"),
    "_global_parameter_registration_hooks": (lambda: module_hooks, "an interrupted registration is undone"),
    "_global_module_registration_hooks": (lambda: module_hooks, "an interrupted registration is undone"),
    "_global_optimizer_pre_hooks": (lambda: optimizer_hooks, "an interrupted registration is undone"),
    "_global_optimizer_post_hooks": (lambda: optimizer_hooks, "an interrupted registration is undone"),
    "_get_sequence_nr": (lambda: torch._C._autograd, "the nodes of one call are told from later ones"),
    "_get_current_function_mode": (lambda: torch.overrides, "a mode that user code leaves entered is seen"),
    "_backward_hooks": (lambda: nn.Linear(1, 1), "a module's own hooks see its gradient"),
    "_backward_pre_hooks": (lambda: nn.Linear(1, 1), "a module's own hooks see its gradient"),
    "_BatchNorm": (lambda: nn.modules.batchnorm, "running statistics are told from parameters"),
    "_apply": (lambda: nn.Linear(1, 1), "conversions of a module are seen"),
    "_call_impl": (lambda: nn.Linear(1, 1), "torch's own frames are left out of tracebacks"),
    "_wrapped_call_impl": (lambda: nn.Linear(1, 1), "torch's own frames are left out of tracebacks"),
    "_typed_storage": (_leaf, "a storage that user code takes may be written to"),
    "_to_dlpack": (lambda: torch._C, "memory that user code hands on may be written to"),
}

NOT_YET = (
    {"_top_saved_tensors_default_hooks", "_get_torch_function_state", "_set_torch_function_state"}
    if torch.__version__.startswith("2.4.")
    else set()
)
"""Names of newer torch; the code that uses them does without."""

MODULES: dict[str, tuple[str, str]] = {
    "torch.utils._python_dispatch": ("_pop_mode", "the stack of dispatch modes is put back"),
    "torch._dynamo": ("reset", "the compiler is off"),
    "torch._streambase": ("_StreamBase", "CUDA's streams have stand-ins"),
    "torch.utils._device": ("DeviceContext", "the default device has a stand-in"),
    "torch.utils._pytree": ("tree_unflatten", "inputs are repeated to another batch size"),
    "torch._compile": ("_disable_dynamo", "an optimizer does not import the compiler"),
}
"""Private modules: a word in their text, and what they are used for."""

_GATHERS = (
    "distributed/_composable/fsdp/_fsdp_param.py"
    if torch.__version__.startswith(("2.4.", "2.5."))
    else "distributed/fsdp/_fully_shard/_fsdp_param.py"
)
TEXTS = {
    "_orig_mod": "_dynamo/eval_frame.py",
    "_fsdp_wrapped_module": "distributed/fsdp/_common_utils.py",
    "_checkpoint_wrapped_module": "distributed/algorithms/_checkpoint/checkpoint_wrapper.py",
    "_forward_unimplemented": "nn/modules/module.py",
    "_unsharded_param": _GATHERS,
}
"""Names that only an import as slow as torch's own would show → the file of torch that defines them."""


@each("name", NAMES)
def test_is_there(name: str) -> None:
    owner, use = NAMES[name]
    if name in NOT_YET:
        return
    assert hasattr(owner(), name), f"torch {torch.__version__} has no {name} any more: {use}"


@each("name", ["is_functorch_wrapped_tensor", "get_unwrapped"])
def test_functorch_is_there(name: str) -> None:
    assert hasattr(torch._C._functorch, name)


def test_variables_have_a_metaclass() -> None:
    assert type(torch.autograd.Variable) is not type, "Variable(t) is not seen any more"


def test_function_modes_can_be_suspended() -> None:
    assert hasattr(torch._C, "DisableTorchFunction"), "book-keeping passes through the user's modes"


@each("name", MODULES)
def test_module_is_there(name: str) -> None:
    word, use = MODULES[name]
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, f"torch {torch.__version__} has no {name} any more: {use}"
    assert word in Path(spec.origin).read_text(encoding="utf-8"), f"{name} has no {word} any more: {use}"


@each("name", TEXTS)
def test_is_written_there(name: str) -> None:
    text = (Path(torch.__file__).parent / TEXTS[name]).read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b", text), f"torch {torch.__version__} has no {name} in {TEXTS[name]} any more"


def test_no_other_is_used() -> None:
    """An attribute with a leading underscore that gradlint does not define itself is somebody else's."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    own |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    used = {n.attr for n in nodes if isinstance(n, ast.Attribute)} | set(_named_in_calls(nodes))
    private = {name for name in used - own if name.startswith("_") and not name.startswith("__")}
    python = {"_fields", "_replace", "_getframe", "_GeneratorContextManager", "_run_exitfuncs", "_clear"}
    python |= {
        "_get_running_loop",
        "_swap_current_task",
        "_set_running_loop",
        "_shutdown",
        "_showwarnmsg",
        "_registry",
        "_exitfunc",
    }
    modules = {name.rpartition(".")[2] for name in MODULES}
    assert private - python <= {*NAMES, *TEXTS, *modules}


def _named_in_calls(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield the names that `getattr` and its like are given, and those imported from torch."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            name = node.args[1]
            if node.func.id in {"getattr", "hasattr", "setattr", "delattr"} and isinstance(name, ast.Constant):
                yield str(name.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            yield from (alias.name for alias in node.names)


def test_no_other_module_is_used() -> None:
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.module if isinstance(node, ast.ImportFrom) else getattr(node, "value", None)
            if isinstance(name, str) and re.fullmatch(r"torch(\.[a-z]\w*)*\._[a-z]\w*", name):
                found.add(name)
    assert found <= set(MODULES)


WITHOUT = """
import torch
from torch import nn
from torch.utils import _python_dispatch

autograd = torch._C._autograd
for owner, names in {{
    torch.overrides: {functions}, _python_dispatch: {dispatch}, torch._C: {core}, autograd: {nodes}
}}.items():
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)
import gradlint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.b(self.a(x).detach())

def build():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    return {{"model": model, "inputs": (torch.ones(2, 2),), "optimizer": optimizer, "loss": lambda out: out.sum()}}

report = gradlint.check(build)
print([f.code for f in report.findings], report.errors, torch._C._len_torch_function_stack())
"""
LACKING = {
    "functions": ["_get_current_function_mode_stack", "_get_current_function_mode"],
    "dispatch": ["_get_current_dispatch_mode_stack"],
    "core": ["_current_graph_task_id", "_current_autograd_node", "_to_dlpack"],
    "nodes": ["_get_sequence_nr", "_top_saved_tensors_default_hooks"],
}
"""Names that torch itself can do without while a network trains."""


@pytest.mark.slow
def test_a_torch_without_them_is_judged_alike(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(WITHOUT.format(**LACKING))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "['GL401'] [] 0\n"


TRAINS = """import torch
def build():
    model = torch.nn.Linear(2, 1)
    x = torch.randn(4, 2)
    optimizers = {
        "AdamW": torch.optim.AdamW(model.parameters(), lr=0.1),
        "SGD": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    }
    def step():
        for optimizer in optimizers.values():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
    return {"model": model, "optimizer": optimizers, "step": step}
"""


@pytest.mark.slow
def test_no_compiler_is_imported_for_an_optimizer(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(TRAINS, encoding="utf-8")
    code = "import gradlint, sys; print(gradlint.check('m.py:build').errors, 'torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n", (
        "torch's decorators of optimizers have changed: see recorder/hooks/uncompiled.py"
    )


@pytest.mark.slow
def test_a_step_is_torchs_own_again() -> None:
    """What stood in for torch's decorator of the step is gone once the recording is over."""
    code = """if True:
        import sys
        import torch
        import gradlint
        model = torch.nn.Linear(2, 1)
        with gradlint.record(model):
            optimizer = torch.optim.AdamW(model.parameters())
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        inside = "torch._dynamo" in sys.modules
        optimizer.step()
        print(inside, "torch._dynamo" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
