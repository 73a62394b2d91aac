"""What `gradlint cost` measures, beside a plain training step measured without it.

    python tests/bench/cost.py [NAME ...]

One row a training setup; each number is gradlint's, and `= truth` or the true number follows.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kit")]
FILES = {
    "tests/kit/cost_models.py": "resnet_like unet_like lstm vit_like bert gpt2 rmsprop",
    "fixtures/founding/two_layers.py": "f2a f2b f2c f2d",
    "fixtures/founding/memory.py": "f3k_whole f3k_first f3k_middle f3k_detach",
}


def main() -> int:
    """Print the table; the exit code is 1 if a number differs."""
    from cost_truth import Truth, measure_builder

    from gradlint.api.costs import cost_of

    wanted, differences = sys.argv[1:], 0
    print(f"{'setup':12}", *(f"{field.replace('_', ' '):>15}" for field in Truth.__dataclass_fields__))
    for file, names in FILES.items():
        for name in names.split():
            if wanted and name not in wanted:
                continue
            said = asdict(Truth.said(cost_of(f"{ROOT / file}:build_{name}").measured.total))
            cells = []
            for field, true in asdict(measure_builder(ROOT / file, f"build_{name}")).items():
                mine = said[field]
                differences += mine != true
                cells.append(f"{mine:>15,}" if mine == true else f"{f'{mine}!={true}':>15}")
            print(f"{name:12}", *cells)
    print(f"{differences} differences from a plain step")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
