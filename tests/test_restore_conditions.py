"""Conditions of what puts things back that no ordinary training setup needs, each by itself."""

from __future__ import annotations

import random
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import model_bits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradlint.restore import generators, global_state
from gradlint.restore.global_state import isolated_rng
from gradlint.restore.mutation import written_tensors
from gradlint.restore.preserved import Preserved
from gradlint.restore.tensors import StorageBytes, inner_tensors, is_readable, overlaps, same_values, storage_of

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


class LastCall(TorchFunctionMode):
    """Keeps the last call of torch."""

    call: Call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.call = func, args, kwargs or {}
        return func(*args, **(kwargs or {}))


def written(call: Callable[[], object]) -> list[int]:
    """Return the addresses of what a call is said to write to."""
    with torch.no_grad(), LastCall() as last:
        call()
    return [tensor.data_ptr() for tensor in written_tensors(*last.call)]


# -- which tensors a call writes to -----------------------------------------------------------------------------------

W, X = torch.ones(4, 4), torch.ones(4, 4)
INDICES = torch.tensor([0, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.embedding(INDICES, W),
        lambda: torch.embedding(W, INDICES, -1, False, False),
        lambda: X.clone().mul_(W),
        lambda: W + 1,
        lambda: F.relu(W, inplace=False),
    ],
)
def test_what_a_call_only_reads_is_not_announced(call):
    assert W.data_ptr() not in written(call)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.embedding(INDICES, W, None, 0.1),
        lambda: F.embedding(INDICES, W, max_norm=0.1),
        lambda: F.embedding(input=INDICES, weight=W, max_norm=0.1),
        lambda: F.embedding_bag(INDICES.view(1, 2), W, max_norm=0.1),
        lambda: F.relu(input=W, inplace=True),
        lambda: W.__setitem__(0, 1.0),
        lambda: torch.add(X, 1, out=W),
        lambda: torch.frexp(X, out=(W, torch.ones(4, 4, dtype=torch.int32))),
    ],
)
def test_what_a_call_writes_is_announced(call):
    assert W.data_ptr() in written(call)


def test_a_kernel_over_lists_may_write_to_any_of_them():
    found = torch.zeros(1)
    gradient, scale = torch.ones(2), torch.ones(1)
    call = lambda: torch._amp_foreach_non_finite_check_and_unscale_([gradient], found, scale)  # noqa: E731
    assert {gradient.data_ptr(), found.data_ptr()} <= set(written(call))


# -- generators -------------------------------------------------------------------------------------------------------


def test_without_numpy_there_are_generators_of_torch_and_python_alone():
    assert generators._kinds(None) == (torch.Generator, random.Random)


def test_the_systems_randomness_has_no_state():
    assert not generators.is_generator(random.SystemRandom())


class Draws(nn.Module):
    """Holds a generator in some container, beside what is none."""

    def __init__(self, held: Any, generator: Any) -> None:
        super().__init__()
        self.held = held
        self.generator = generator


@pytest.mark.parametrize("wrapped", [lambda g: [3, g], lambda g: (g, None), lambda g: {"a": 3, "b": g}, lambda g: g])
def test_generators_in_containers_of_a_module_are_put_back(wrapped):
    generator = random.Random(3)
    model, before = Draws(wrapped(generator), None), generator.getstate()
    with Preserved([model]) as preserved:
        generator.random()
    assert generator.getstate() == before and preserved.unrestored == []


def test_numpys_older_generator_is_put_back():
    import numpy as np

    generator = np.random.RandomState(3)
    before = repr(generator.get_state(legacy=False))
    with Preserved([], generators=[generator]):
        generator.rand()
    assert repr(generator.get_state(legacy=False)) == before


def test_random_states_are_put_back_without_numpy(monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy.random")
    before = random.getstate()
    with isolated_rng():
        random.random()
    assert random.getstate() == before


def test_without_cuda_no_random_state_of_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: pytest.fail("CUDA would be initialised"))
    with isolated_rng():
        pass


# -- settings of torch ------------------------------------------------------------------------------------------------


def test_a_setting_that_did_not_change_is_not_written(monkeypatch):
    values: list[int] = []
    monkeypatch.setattr(global_state, "_SETTINGS", (("unchanged", lambda: 1, values.append),))
    assert global_state.GlobalState().put_back() == [] and values == []


def test_a_setting_that_cannot_be_read_is_left_alone(monkeypatch):
    def unreadable() -> None:
        raise RuntimeError

    monkeypatch.setattr(global_state, "_SETTINGS", (("absent", unreadable, print),))
    assert global_state.GlobalState().put_back() == []


def test_a_device_that_is_left_entered_is_taken_off_where_none_was_set():
    left: list[Any] = []

    def use() -> None:  # the setting is one of the thread
        with Preserved([]) as preserved:
            torch.device("meta").__enter__()
        left.extend([preserved.unrestored, torch.get_default_device().type])

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert left == [[], "cpu"]


@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"), reason="this torch cannot tell its hooks"
)
def test_hooks_of_saved_tensors_that_are_left_on_are_taken_off():
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        before = torch._C._autograd._top_saved_tensors_default_hooks(True)
        with Preserved([]) as preserved:
            for _ in range(2):
                torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t).__enter__()
        assert torch._C._autograd._top_saved_tensors_default_hooks(True) == before
        assert preserved.unrestored == []


def test_no_cast_of_other_weights_stays_in_the_cache_of_autocast():
    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    with torch.autocast("cpu"):
        before = model(x).clone()
        torch.clear_autocast_cache()
        with Preserved([model]) as preserved:
            preserved.save_all()
            model.weight.data.mul_(3)
            model(x)
        assert torch.equal(model(x), before)


def test_a_copied_list_of_filters_is_replaced_by_the_first():
    before = warnings.filters
    with Preserved([]):
        warnings.filters = list(warnings.filters)  # type: ignore[assignment]
    assert warnings.filters is before


def test_a_warning_that_was_shown_is_not_shown_again():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(2):
            with Preserved([]):
                pass
            warnings.warn("once", UserWarning, stacklevel=1)
    assert len(shown) == 1


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_only_the_first_content_is_kept():
    tensor = torch.ones(3)
    kept = StorageBytes(tensor.untyped_storage())
    for value in (1.0, 2.0):
        tensor.fill_(value)
        kept.save()
    kept.put_back()
    assert tensor.tolist() == [1.0, 1.0, 1.0]


def test_a_history_that_was_there_stays():
    history = torch.ones(3, requires_grad=True) * 2
    function = history.grad_fn
    with Preserved([], extra_tensors=[history]) as preserved:
        pass
    assert history.grad_fn is function and preserved.unrestored == []


def test_an_exchanged_history_is_said():
    history = torch.ones(3, requires_grad=True) * 2
    with Preserved([], extra_tensors=[history]) as preserved:
        history.mul_(2)
    assert preserved.unrestored == ["tensor 0"]


class Wrapper(Tensor):
    """A wrapper of a tensor that names a plain attribute among its parts."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(cls, inner.shape)  # type: ignore[attr-defined]
        made.inner, made.mesh = inner, "mesh"
        return made

    def __tensor_flatten__(self) -> Any:
        return ["inner", "mesh"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(a.inner if isinstance(a, Wrapper) else a for a in args), **(kwargs or {}))


def test_a_sparse_tensor_consists_of_indices_and_values(monkeypatch):
    sparse = torch.eye(2).to_sparse()
    for owner in (None, torch._C):  # a torch without functorch too
        if owner is not None:
            monkeypatch.delattr(owner, "_functorch")
        assert [part.shape for part in inner_tensors(sparse)] == [(2, 2), (2,)]


def test_a_sparse_tensor_gets_its_shape_back():
    model: Any = nn.Module()
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    with Preserved([model]):
        model.sparse.data = torch.eye(3).to_sparse()
    assert torch.equal(model.sparse.to_dense(), torch.eye(2))


def test_parts_of_a_wrapper_that_are_no_tensors_are_left_out():
    inner = torch.ones(3)
    assert inner_tensors(Wrapper(inner)) == [inner] or inner_tensors(Wrapper(inner))[0] is inner
    assert len(inner_tensors(Wrapper(inner))) == 1


class Plain(Tensor):
    """A subclass that changes nothing."""


def test_a_tensor_of_another_class_is_put_back():
    model: Any = nn.Linear(2, 2)
    model.register_buffer("kept", torch.ones(3).as_subclass(Plain))
    with Preserved([model]) as preserved:
        model.kept.data = torch.zeros(5)
    assert model.kept.tolist() == [1.0, 1.0, 1.0] and preserved.unrestored == []


def test_one_storage_is_saved_once(monkeypatch):
    saved: list[int] = []
    monkeypatch.setattr(StorageBytes, "save", lambda self: saved.append(self.nbytes))
    model = nn.Linear(2, 2)
    values = torch.ones(4)
    model.register_buffer("first", values[:2])
    model.register_buffer("whole", values)
    with Preserved([model]) as preserved:
        saved.clear()
        preserved.save_all()
    assert sorted(saved) == [8, 16, 16]  # bias, weight, both buffers


class Refusing(Tensor):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} was called")


def test_the_write_to_a_tensor_that_refuses_calls_is_announced():
    with torch._C.DisableTorchFunction():
        odd = torch.ones(3).as_subclass(Refusing)
    with Preserved([nn.Linear(1, 1)]) as preserved:
        preserved.before_write(odd)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_the_mode_of_a_scripted_module_is_put_back_where_it_is_kept():
    model: Any = torch.jit.script(nn.Dropout())
    with Preserved([model]):
        model.eval()
    assert model._c.getattr("training") and "training" not in vars(model)


def test_tensors_without_memory():
    assert storage_of(torch.ones(3, device="meta")) is None and storage_of(torch.ones(0)) is None
    assert not is_readable(torch.ones(3, device="meta")) and is_readable(torch.ones(0)[:, None].expand(0, 3))


BASE = torch.zeros(4, 4)


@pytest.mark.parametrize(
    ("left", "right", "overlap"),
    [
        (BASE[:2], BASE[1:], True),
        (BASE[:2], BASE[2:], False),
        (BASE[2:], BASE[:2], False),
        (BASE[:, 0], BASE[:, 1], False),
        (BASE[:, 0], BASE[2], True),
        (BASE[:, 0], BASE.view(torch.int32)[:, 1], True),  # not compared by element
        (BASE, torch.zeros(4, 4), False),
        (torch.ones(0), torch.ones(0), False),
    ],
)
def test_overlaps(left, right, overlap):
    assert overlaps([left, right]) == ([frozenset({1}), frozenset({0})] if overlap else [frozenset(), frozenset()])


@pytest.mark.parametrize(
    "other",
    [torch.ones(2), torch.ones(3, dtype=torch.float64), torch.ones(3, device="meta"), torch.ones(3, 1)],
)
def test_tensors_of_another_form_are_not_the_same(other):
    assert not same_values(torch.ones(3), other) and not same_values(other, torch.ones(3))


def test_tensors_without_values_are_not_the_same():
    full, freed = torch.ones(3), torch.ones(3)
    freed.untyped_storage().resize_(0)
    assert not same_values(full, freed) and not same_values(freed, full)


def test_an_exchanged_registry_is_put_back():
    model: Any = nn.BatchNorm1d(2)
    before = model._buffers
    with Preserved([model]) as preserved:
        model._buffers = dict(model._buffers)
    assert model._buffers is before and preserved.unrestored == []


def test_a_buffer_under_another_name_gets_its_own_back():
    model: Any = nn.BatchNorm1d(2)
    names = list(model._buffers)
    with Preserved([model]):
        for name in names:
            model._buffers[f"{name}_moved"] = model._buffers.pop(name)
    assert list(model._buffers) == names


def test_a_deleted_attribute_of_an_optimizer_comes_back():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    with Preserved([], [optimizer]) as preserved:
        del optimizer.defaults
    assert optimizer.defaults["lr"] == 0.1 and preserved.unrestored == []


def test_the_same_value_under_another_name_gets_its_own_back():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    (group,) = optimizer.param_groups
    names = list(group)
    with Preserved([], [optimizer]):
        group["renamed"] = group.pop(names[-1])
    assert list(group) == names


class Bare:
    """A scheduler without attributes of its own."""

    __slots__ = ()


def test_an_object_without_attributes_has_nothing_to_put_back():
    with Preserved([], [], [Bare()]) as preserved:
        pass
    assert preserved.unrestored == []


def test_a_single_model_has_no_number_in_names():
    model = nn.Linear(2, 2)
    with Preserved([model]) as preserved, torch.no_grad():
        model.weight.zero_()
    assert preserved.unrestored == ["weight"]


def test_an_attribute_that_hides_a_parameter_is_taken_away():
    model: Any = nn.Linear(2, 2)
    with Preserved([model]):
        vars(model)["weight"] = 3
    assert model.weight is model._parameters["weight"]


def test_nothing_is_copied_before_the_context_is_entered():
    model: Any = nn.Linear(2, 2)
    preserved = Preserved([model])
    preserved.before_write(model.weight)
    before = model_bits(model)
    with preserved:
        preserved.before_write(model.weight)
        model.weight.data.zero_()
    assert model_bits(model) == before
