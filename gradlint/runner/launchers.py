"""Launchers of distributed training: the script that one starts in several processes runs as the only one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradlint.runner.job import Job

_LAUNCHERS = {
    "torchrun": "torchrun",
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torch.distributed.launch",
    "accelerate": "accelerate launch",
    "accelerate.commands.launch": "accelerate launch",
    "accelerate.commands.accelerate_cli": "accelerate launch",
    "deepspeed": "deepspeed",
    "deepspeed.launcher.runner": "deepspeed",
}
"""Module, or name of a program without its suffix → the launcher in words."""


def launcher_of(job: Job) -> str:
    """Return the launcher that a job names, in words; empty for a script."""
    if job.module:
        return _LAUNCHERS.get(job.script, "")
    path = Path(job.script)
    return "" if path.suffix.startswith(".py") else _LAUNCHERS.get(path.stem, "")


def launched(job: Job) -> Job | None:
    """Return the job that runs the script of a launcher by itself.

    None if the arguments show no script.
    """
    arguments = job.arguments
    for number, argument in enumerate(arguments):
        if argument in ("-m", "--module") and arguments[number + 1 : number + 2]:
            return _alone(job, arguments[number + 1], arguments[number + 2 :], module=True)
        if argument.endswith(".py"):
            return _alone(job, argument, arguments[number + 1 :], module=False)
    return None


def _alone(job: Job, script: str, arguments: Sequence[str], *, module: bool) -> Job:
    return replace(
        job, script=script, module=module, arguments=tuple(arguments), misplaced="", launcher=launcher_of(job)
    )
