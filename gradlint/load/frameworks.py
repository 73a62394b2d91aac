"""Turn LightningModules and Hugging Face Trainers into training setups, by their own methods.

Neither framework is imported: an object of a framework that is not loaded cannot have been returned.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gradlint.load.setup import Setup


def unwrap_framework(result: Any) -> Any:
    """Return the setup of a LightningModule or a Trainer; return anything else unchanged."""
    if _is(result, "transformers", "Trainer"):
        return _trainer(result)
    if _is(result, "lightning", "LightningModule"):
        return _lightning(Setup(result))
    if isinstance(result, Mapping) and _is(result.get("model"), "lightning", "LightningModule"):
        with contextlib.suppress(TypeError):  # an unknown key, which `normalize` reports
            return _lightning(Setup(**result))
    if isinstance(result, Setup) and _is(result.model, "lightning", "LightningModule"):
        return _lightning(replace(result))
    return result


def _is(thing: Any, package: str, name: str) -> bool:
    """Return True for an instance of class `name` of `package` or ``pytorch_<package>``."""
    packages = (package, f"pytorch_{package}")
    return any(c.__name__ == name and c.__module__.partition(".")[0] in packages for c in type(thing).__mro__)


# -- Lightning ----------------------------------------------------------------------------------------------------


def _lightning(setup: Setup) -> Setup:
    module: Any = setup.model
    if setup.optimizer is not None:
        return setup
    try:
        configuration = module.configure_optimizers()
    except (AttributeError, RuntimeError) as error:
        if "rainer" not in str(error):
            raise
        setup.notes.append("configure_optimizers() needs a Trainer, and there is none: no optimizer was checked")
        return setup
    optimizers, schedulers = _optimizers_and_schedulers(configuration)
    setup.optimizer = optimizers[0] if len(optimizers) == 1 else optimizers or None
    if setup.step is None and setup.loss is None and optimizers and _is_overridden(module, "train_dataloader"):
        setup.step = _training_step(module, optimizers, schedulers)
    return setup


def _is_overridden(module: Any, name: str) -> bool:
    """Return True if a method is the user's own, not Lightning's placeholder."""
    member = getattr(type(module), name, None)
    return member is not None and not str(getattr(member, "__module__", "")).startswith(("lightning", "pytorch_"))


def _optimizers_and_schedulers(configuration: Any) -> tuple[list[Any], list[Any]]:
    """Return the optimizers and per-batch schedulers that configure_optimizers() returned."""
    if configuration is None:
        return [], []
    if isinstance(configuration, Mapping):
        return [configuration["optimizer"]], _stepped_per_batch([configuration.get("lr_scheduler")])
    if isinstance(configuration, (list, tuple)):
        if len(configuration) == 2 and isinstance(configuration[0], (list, tuple)):
            return list(configuration[0]), _stepped_per_batch(configuration[1])
        parts = [_optimizers_and_schedulers(part) for part in configuration]
        return [o for part, _ in parts for o in part], [s for _, part in parts for s in part]
    return [configuration], []


def _stepped_per_batch(schedulers: Any) -> list[Any]:
    configs = schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]
    return [c["scheduler"] for c in configs if isinstance(c, Mapping) and c.get("interval") == "step"]


def _training_step(module: Any, optimizers: list[Any], schedulers: list[Any]) -> Callable[[], None]:
    batches = _batches(module.train_dataloader)
    numbers = itertools.count()

    def step() -> None:
        batch, number = next(batches), next(numbers)
        if not getattr(module, "automatic_optimization", True):
            with _manual_optimization(module, optimizers):
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
def _manual_optimization(module: Any, optimizers: list[Any]) -> Iterator[None]:
    """Give a module the methods that a Trainer offers for manual optimization."""
    methods = {
        "optimizers": lambda *_, **__: optimizers[0] if len(optimizers) == 1 else optimizers,
        "lr_schedulers": lambda *_, **__: None,
        "manual_backward": lambda loss, *args, **kwargs: loss.backward(*args, **kwargs),
    }
    module.__dict__.update(methods)
    try:
        yield
    finally:
        for name in methods:
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
