"""Call user code under a fixed seed, and report its exceptions as errors of the target."""

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
from gradlint.recorder.ledger.enough import EnoughRecorded

SEED = 0
"""Seed of every forward, so that no finding depends on the luck of a dropout or a router."""


def gradlint_runs_user_code(function: Callable[..., Any], *args: Any) -> Any:
    """Call user code; the user's call chains begin at this frame."""
    return function(*args)


@contextlib.contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Turn an exception of user code into a TargetError with the user's frames."""
    try:
        yield
    except GradlintError:
        raise
    except (KeyboardInterrupt, GeneratorExit, EnoughRecorded):  # the second if an interrupt left this unfinished
        raise
    except BaseException as error:
        raise user_error(what, error) from error


def run_forward(module: nn.Module, inputs: Inputs) -> Any:
    """Run a forward."""
    return module(*inputs.args, **inputs.kwargs)


def inputs_of_setup(inputs: Any) -> Inputs:
    """Return the inputs of a setup as the arguments of a call."""
    if isinstance(inputs, Mapping):
        return Inputs((), dict(inputs))
    if isinstance(inputs, (tuple, list)):
        return Inputs(tuple(inputs))
    return Inputs((inputs,))


def seed(number: int = SEED) -> None:
    """Set the random states of python, torch and numpy (if imported)."""
    random.seed(number)
    if hasattr(torch, "accelerator") and not torch.accelerator.is_available():  # since torch 2.6
        torch.default_generator.manual_seed(number)
    else:  # takes longer: it formats a stack for each kind of device that is not initialized
        torch.manual_seed(number)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(number)


def watch_random_draws() -> Callable[[], bool]:
    """Return a function that is True once python or numpy has drawn random numbers."""
    before = _random_states()
    return lambda: _random_states() != before


def _random_states() -> tuple[object, ...]:
    numpy = sys.modules.get("numpy")
    state = numpy.random.get_state(legacy=False)["state"] if numpy is not None else {}
    return random.getstate(), *(bytes(part) if hasattr(part, "tobytes") else part for part in state.values())
