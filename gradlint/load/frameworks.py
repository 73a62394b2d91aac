"""LightningModules and Hugging Face Trainers as set-ups: what they would train with, taken from their own methods.

Imports neither framework: what is not loaded cannot have been returned.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gradlint.load.setup import Setup


def unwrap_framework(result: Any) -> Any:
    """What build() returned, with a LightningModule or a Trainer in it taken apart; anything else as it is."""
    if _is(result, "transformers", "Trainer"):
        return _trainer(result)
    if _is(result, "lightning", "LightningModule"):
        return _lightning(Setup(result))
    if isinstance(result, Mapping) and _is(result.get("model"), "lightning", "LightningModule"):
        with contextlib.suppress(TypeError):  # an unknown key, which is told of elsewhere
            return _lightning(Setup(**result))
    if isinstance(result, Setup) and _is(result.model, "lightning", "LightningModule"):
        return _lightning(replace(result))
    return result


def _is(thing: Any, package: str, name: str) -> bool:
    """Whether an object is of a class of that name in a package, or in one called ``pytorch_<package>``."""
    packages = (package, f"pytorch_{package}")
    return any(c.__name__ == name and c.__module__.partition(".")[0] in packages for c in type(thing).__mro__)


# -- Lightning ----------------------------------------------------------------------------------------------------


def _lightning(setup: Setup) -> Setup:
    module: Any = setup.model
    if setup.optimizer is not None:
        return setup
    try:
        configured = module.configure_optimizers()
    except (AttributeError, RuntimeError) as error:
        if "rainer" not in str(error):
            raise
        setup.notes.append("configure_optimizers() asks for a Trainer, which is not there: no optimizer was judged")
        return setup
    optimizers, schedulers = _configured(configured)
    setup.optimizer = optimizers[0] if len(optimizers) == 1 else optimizers or None
    if setup.step is None and setup.loss is None and optimizers and _own(module, "train_dataloader"):
        setup.step = _training_step(module, optimizers, schedulers)
    return setup


def _own(module: Any, name: str) -> bool:
    """Whether a method is the user's, not Lightning's placeholder."""
    member = getattr(type(module), name, None)
    return member is not None and not str(getattr(member, "__module__", "")).startswith(("lightning", "pytorch_"))


def _configured(configured: Any) -> tuple[list[Any], list[Any]]:
    """The optimizers, and the schedulers stepped with every batch, in what configure_optimizers() returned."""
    if configured is None:
        return [], []
    if isinstance(configured, Mapping):
        return [configured["optimizer"]], _per_step([configured.get("lr_scheduler")])
    if isinstance(configured, (list, tuple)):
        if len(configured) == 2 and isinstance(configured[0], (list, tuple)):
            return list(configured[0]), _per_step(configured[1])
        parts = [_configured(part) for part in configured]
        return [o for part, _ in parts for o in part], [s for _, part in parts for s in part]
    return [configured], []


def _per_step(given: Any) -> list[Any]:
    configs = given if isinstance(given, (list, tuple)) else [given]
    return [c["scheduler"] for c in configs if isinstance(c, Mapping) and c.get("interval") == "step"]


def _training_step(module: Any, optimizers: list[Any], schedulers: list[Any]) -> Callable[[], None]:
    batches = _batches(module.train_dataloader)
    numbers = itertools.count()

    def step() -> None:
        batch, number = next(batches), next(numbers)
        if not getattr(module, "automatic_optimization", True):
            with _by_hand(module, optimizers):
                module.training_step(batch, number)
            return
        (optimizer,) = optimizers[:1]
        loss = module.training_step(batch, number)
        loss = loss["loss"] if isinstance(loss, Mapping) else loss
        optimizer.zero_grad()
        if loss is None:
            return
        loss.backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()

    return step


@contextlib.contextmanager
def _by_hand(module: Any, optimizers: list[Any]) -> Iterator[None]:
    """Give a module with manual optimization what a Trainer would give it."""
    given = {
        "optimizers": lambda *_, **__: optimizers[0] if len(optimizers) == 1 else optimizers,
        "lr_schedulers": lambda *_, **__: None,
        "manual_backward": lambda loss, *args, **kwargs: loss.backward(*args, **kwargs),
    }
    module.__dict__.update(given)
    try:
        yield
    finally:
        for name in given:
            module.__dict__.pop(name, None)


def _batches(loader: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from loader()


# -- transformers -------------------------------------------------------------------------------------------------


def _trainer(trainer: Any) -> Setup:
    model = trainer.model
    optimizer = trainer.optimizer or trainer.create_optimizer()
    setup = Setup(model, optimizer=optimizer)
    if trainer.train_dataset is not None:
        batches = _batches(trainer.get_train_dataloader)

        def step() -> None:
            optimizer.zero_grad()
            trainer.compute_loss(model, next(batches)).backward()
            optimizer.step()

        setup.step = step
    return setup
