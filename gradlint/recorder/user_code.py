"""Calling the user's code: under a fixed seed, with its exceptions told as theirs."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from gradlint.errors import GradlintError
from gradlint.load.build import user_error
from gradlint.load.inputs.find import Inputs
from gradlint.recorder.hooks.gradients import EnoughRecorded

SEED = 0
"""Forwards run under this seed, so that a verdict does not depend on the luck of a dropout or a router."""


def gradlint_runs_user_code(function: Callable[..., Any], *args: Any) -> Any:
    """Call user code; the user's call chains begin above this frame."""
    return function(*args)


@contextlib.contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Report an exception of the user's code as theirs."""
    try:
        yield
    except GradlintError:
        raise
    except (KeyboardInterrupt, EnoughRecorded):
        raise
    except BaseException as error:
        raise user_error(what, error) from error


def run_forward(module: nn.Module, inputs: Inputs) -> Any:
    """Run a forward."""
    return module(*inputs.args, **inputs.kwargs)


def inputs_of_setup(inputs: Any) -> Inputs:
    """The inputs of a set-up as the arguments of a call."""
    if isinstance(inputs, Mapping):
        return Inputs((), dict(inputs))
    if isinstance(inputs, (tuple, list)):
        return Inputs(tuple(inputs))
    return Inputs((inputs,))


def seed(number: int = SEED) -> None:
    """Set the random states of python, torch and numpy (if imported)."""
    random.seed(number)
    torch.manual_seed(number)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(number)


def watch_random_draws() -> Callable[[], bool]:
    """A question: whether random numbers of python's or numpy's were drawn since."""
    before = _random_states()
    return lambda: _random_states() != before


def _random_states() -> tuple[object, ...]:
    numpy = sys.modules.get("numpy")
    state = numpy.random.get_state(legacy=False)["state"] if numpy is not None else {}
    return random.getstate(), *(bytes(part) if hasattr(part, "tobytes") else part for part in state.values())
