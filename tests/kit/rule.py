"""Check the rules under development, in seconds: ``python tests/kit/rule.py NAME [NAME ...] [-k PART]``.

NAME is a rule's code, its name (`detached-upstream`) or the stem of its two files. Printed are the broken claims about
its builders and its documentation, those that tests/test_fixtures.py and test_documentation.py
make. ``-k`` picks the builders whose names contain PART. The exit code is 1 if a claim is broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import table


def main() -> int:
    """Print the broken claims, then how many builders were asked and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("-k", dest="part", default="", help="only builders whose names contain this")
    given = parser.parse_args()

    import claims

    from gradlint.rulekit import registry

    rules = {spelling: r for r in registry.load(packs=False).rules for spelling in (r.name, r.code)}
    unknown = [name for name in given.names if name.replace("_", "-") not in rules]
    if unknown:
        parser.error(f"there is no rule {', '.join(unknown)}")
    wrong = number = 0
    start = time.perf_counter()
    for rule in [rules[name.replace("_", "-")] for name in given.names]:
        fixture = table.FIXTURES / f"{rule.name.replace('-', '_')}.py"
        chosen = [b for b in table.builders(fixture, "bad_", "good_") if given.part in b.name]
        for builder in chosen:
            wrong += _printed(
                f"{fixture.relative_to(table.ROOT)}:{builder.line} {builder.name}", claims.broken(builder)
            )
        with tempfile.TemporaryDirectory() as folder:
            if not given.part:
                wrong += _printed(f"documentation of {rule.code}", list(claims.documentation(rule, Path(folder))))
        number += len(chosen)
    print(f"{number} builders, {wrong} with broken claims, {time.perf_counter() - start:.1f} s")
    return int(bool(wrong))


def _printed(title: str, sentences: list[str]) -> bool:
    if sentences:
        print("\n  ".join([title, *"\n".join(sentences).splitlines()]), end="\n\n")
    return bool(sentences)


if __name__ == "__main__":
    sys.exit(main())
