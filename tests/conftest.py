"""Settings shared by all tests: real models are built from configs, nothing is fetched and nothing is chatted."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def grad_mode_is_put_back():
    """Some fixtures leave grad mode off: that is their mistake, and not the next test's."""
    import torch

    before = torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(before)
