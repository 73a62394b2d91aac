"""Reports: findings turned into text. Nothing in here prints; every renderer returns a string."""

from __future__ import annotations
