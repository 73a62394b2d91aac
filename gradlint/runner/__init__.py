"""``gradlint run``: a training script in a process of its own, recorded until it has stepped a few times."""
