"""Set every hook of a recording.

`install_hooks` sets them for the time of a recording, and the undo list removes every one of them.
"""

from __future__ import annotations

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks import (
    inference,
    modules,
    optimizers,
    scalers,
    schedulers,
    sharding,
    tensors,
    threads,
    training,
)
from gradlint.recorder.hooks.clips import Clips
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.markers import note_marks
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.system.undo import Undo


def install_hooks(undo: Undo, recorder: Recorder, log: HookLog, ledger: Ledger) -> None:
    """Set the hooks until `undo` removes them."""
    optimizers.install_hooks(undo, recorder, log)
    modules.install_hooks(undo, recorder, log)
    tensors.install_hooks(undo, recorder)
    sharding.install_hooks(undo, recorder, log)
    inference.install_hooks(undo, recorder)
    threads.install_hooks(undo, recorder)
    note_marks(undo, recorder)
    training.install_hooks(undo, recorder, log, ledger)
    schedulers.install_hooks(undo, recorder, log, ledger)
    scalers.install_hooks(undo, recorder, log, ledger)
    recorder.notify(Clips(recorder, ledger))
