"""Ends a plain run after as many steps of its first optimizer as the environment says, for comparison."""

import os

if "PUBLIC_SCRIPT_STEPS" in os.environ:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    first = []

    def count(optimizer, args, kwargs):
        first.append(id(optimizer))
        if first.count(first[0]) >= int(os.environ["PUBLIC_SCRIPT_STEPS"]):
            os._exit(0)

    register_optimizer_step_post_hook(count)
