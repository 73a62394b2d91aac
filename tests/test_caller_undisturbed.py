"""What runs in the user's own process leaves their random numbers and their event loop alone."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import torch
from cases import each
from torch import nn

import gradlint

# -- random numbers ----------------------------------------------------------------------------------------------------

TRAINING = """
import hashlib, logging, random, numpy, torch
from torch import nn

random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 1))
optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)

def train(after=lambda: None):
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(3, 4)).mean().backward()
        optimizer.step()
        random.random(), numpy.random.rand()
        after()

{program}
numbers = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
print(hashlib.md5(repr(numbers).encode()).hexdigest())
"""
PROGRAMS = {
    "imports": """
        import importlib, pkgutil, gradlint
        names = [m.name for m in pkgutil.walk_packages(gradlint.__path__, "gradlint.")]
        for name in names:
            if "__main__" not in name and "integrations" not in name:
                importlib.import_module(name)
        train()""",
    "a check and its text": """
        import gradlint
        from gradlint.testing.assertions import text_of
        text_of(gradlint.check((net, optimizer)), "net")
        train()""",
    "a recording": """
        import gradlint
        with gradlint.record(net, optimizer=optimizer) as recording:
            train()
        gradlint.check(recording)""",
    "a callback that logs": """
        from gradlint.api.recording import Watch
        watch = Watch("log", 3)
        watch.begin(net, [optimizer])
        train(watch.after_step)
        watch.end()""",
    "reports in all formats": """
        import gradlint
        from gradlint.report import FORMATS, render
        from gradlint.report.view import View
        report = gradlint.check((net, optimizer))
        for form in FORMATS:
            render(form, report, View(color=True))
        train()""",
}


def numbers_after(program: str) -> str:
    """What the random numbers of a new process are after a program."""
    code = TRAINING.format(program=textwrap.dedent(program))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_random_numbers_are_as_without_gradlint(program: str) -> None:
    assert numbers_after(PROGRAMS[program]) == numbers_after("train()")


def test_the_parts_of_a_report_draw_no_random_number() -> None:
    code = "import random; before = random.getstate(); import gradlint.report.full, gradlint.report.why; "
    code += "assert 'rich.style' in __import__('sys').modules; print(random.getstate() == before)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


# -- the event loop ----------------------------------------------------------------------------------------------------


def setup():
    """A setup without a mistake."""
    model = nn.Linear(4, 1)
    return {"model": model, "inputs": (torch.ones(2, 4),), "optimizer": torch.optim.SGD(model.parameters(), 0.1)}


async def coroutine():
    await asyncio.sleep(0)
    return setup()


async def generator():
    await asyncio.sleep(0)
    yield setup()


async def with_a_task_left():
    asyncio.get_running_loop().create_task(asyncio.sleep(1000))
    return setup()


async def with_a_thread():
    await asyncio.get_running_loop().run_in_executor(None, int)
    return setup()


async def raising():
    await asyncio.sleep(0)
    raise OSError("no")


async def raising_generator():
    raise OSError("no")
    yield


GOOD = [coroutine, generator, with_a_task_left, with_a_thread]
BAD = [raising, raising_generator]


@contextlib.contextmanager
def loop_set() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that the caller has set, and that is gone in the end."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@each("build", GOOD, ids=lambda build: build.__name__)
def test_the_loop_that_the_caller_has_set_stays(build):
    with loop_set() as loop:
        assert gradlint.check(build).clean
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
        assert loop.run_until_complete(asyncio.sleep(0, "runs")) == "runs"


@each("build", BAD, ids=lambda build: build.__name__)
def test_a_build_that_raises_leaves_the_loop(build):
    with loop_set() as loop:
        [failure] = gradlint.check(build).errors
        assert "raised OSError: no" in failure.message
        assert asyncio.get_event_loop_policy().get_event_loop() is loop


@each("build", GOOD, ids=lambda build: build.__name__)
def test_a_build_is_awaited_while_the_loop_of_the_caller_runs(build):
    async def notebook():
        running, task = asyncio.get_running_loop(), asyncio.current_task()
        beside = asyncio.create_task(asyncio.sleep(0, "beside"))
        report = gradlint.check(build)
        assert (asyncio.get_running_loop(), asyncio.current_task()) == (running, task)
        await asyncio.sleep(0)
        return report.errors, await beside

    assert asyncio.run(notebook()) == ([], "beside")


def test_an_interrupt_leaves_the_loop_that_runs():
    async def build():
        raise KeyboardInterrupt

    async def notebook():
        running = asyncio.get_running_loop()
        with pytest.raises(KeyboardInterrupt):
            gradlint.check(build)
        assert asyncio.get_running_loop() is running

    asyncio.run(notebook())
