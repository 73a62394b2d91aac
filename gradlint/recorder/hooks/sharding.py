"""Follow what FSDP2 gathers: a forward reads whole parameters, and the optimizer holds their shards."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.patching import on_recorder_thread, patch
from gradlint.restore.global_state import without_torch_function
from gradlint.system.undo import Undo
from gradlint.traces.ids import NO_SITE

MODULES = (
    "torch.distributed.fsdp._fully_shard._fsdp_param",
    "torch.distributed._composable.fsdp._fsdp_param",  # torch < 2.6
)
"""The modules of torch that gather parameters: a private ``FSDPParam.to_unsharded`` makes one whole."""


def install_hooks(undo: Undo, recorder: Recorder, log: HookLog) -> None:
    """Set the hooks until `undo` removes them."""
    patched: set[type] = set()

    def follow() -> None:
        for name in MODULES:
            parameter = getattr(sys.modules.get(name), "FSDPParam", None)
            if parameter is not None and parameter not in patched and "to_unsharded" in vars(parameter):
                patched.add(parameter)
                patch(undo, parameter, "to_unsharded", _to_unsharded, recorder, log)

    follow()
    patch(undo, nn.Module, "register_forward_pre_hook", _register_forward_pre_hook, follow)


def _register_forward_pre_hook(original: Any, follow: Any) -> Any:
    def register_forward_pre_hook(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        follow()  # FSDP2 is imported when a model is sharded, which registers such a hook
        return original(self, *args, **kwargs)

    return register_forward_pre_hook


def _to_unsharded(original: Any, recorder: Recorder, log: HookLog) -> Any:
    def to_unsharded(self: Any) -> Any:
        result = original(self)
        whole, shard = getattr(self, "_unsharded_param", None), getattr(self, "sharded_param", None)
        if isinstance(whole, Tensor) and isinstance(shard, Tensor):
            log.shards[id(whole)] = (whole, shard)
            if recorder.active and on_recorder_thread(recorder):
                site = recorder.walk(sys._getframe(1)).site
                with recorder.pausing(), without_torch_function():
                    recorder.tensors.gather(whole, shard, site)
        return result

    return to_unsharded


def note_flat_parameters(recorder: Recorder, roots: Mapping[str, nn.Module]) -> None:
    """Note that the parameters inside of a FullyShardedDataParallel are not followed one by one."""
    flat = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if flat is not None and any(isinstance(m, flat) for root in roots.values() for m in nn.Module.modules(root)):
        recorder.tape.note_unseen(
            "FullyShardedDataParallel keeps parameters in flat tensors: which of them gradient reaches is not seen"
            " (it is with fully_shard)",
            NO_SITE,
        )


def reshard(roots: Mapping[str, nn.Module]) -> None:
    """Let FSDP2 modules hold their shards again.

    The outermost keeps what it has gathered until a backward pass.
    """
    sharded = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if sharded is not None:
        for root in roots.values():
            for module in nn.Module.modules(root):
                if isinstance(module, sharded):
                    module.reshard()
