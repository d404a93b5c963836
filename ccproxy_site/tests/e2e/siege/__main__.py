"""`make siege`, or `python -m ccproxy_site.tests.e2e.siege --scenario vanish --scenario overload [--quick]`.

Every attack at its full length, each on a fresh installation; exit code 1 if one figure does not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from ccproxy_site.tests.e2e.siege import broken
from ccproxy_site.tests.e2e.siege.trials import TRIALS


def main() -> int:
    parser = argparse.ArgumentParser(description="Attacks a gateway of its own, and measures how it holds.")
    parser.add_argument(
        "--scenario", nargs="+", action="extend", choices=TRIALS, metavar="NAME", help=", ".join(TRIALS)
    )
    parser.add_argument("--quick", action="store_true", help="as CI does it: shorter, with five times the slack")
    options = parser.parse_args()
    chosen = options.scenario or TRIALS
    failed = [name for name in chosen if not holds(name, quick=options.quick)]
    sys.stdout.write(f"\nBroken: {', '.join(failed)}\n" if failed else "\nAll hold\n")
    return 1 if failed else 0


def holds(name: str, *, quick: bool) -> bool:
    """Says what it measures as soon as it is known; the log of a gateway that did not hold is shown."""
    trial = TRIALS[name]
    sys.stdout.write(f"\n{name}\n")
    sys.stdout.flush()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ccproxy-siege-") as folder:
        figures = trial.run(Path(folder), trial.short if quick else trial.long)
        if broken(figures):
            sys.stderr.write((Path(folder) / "serve.log").read_text()[-4000:])
    sys.stdout.write("".join(f"  {figure}\n" for figure in figures))
    sys.stdout.write(f"  {time.monotonic() - began:.0f} s\n")
    sys.stdout.flush()
    return not broken(figures)


if __name__ == "__main__":
    sys.exit(main())
