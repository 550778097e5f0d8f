"""Plant deliberate bugs, one at a time, and see whether the tests catch them: `python -m tests.bite --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from tests.bite.bug import Bug
from tests.bite.catalogue import BUGS
from tests.bite.planting import SECONDS_WITHOUT_BUGS, Finding, pristine, run, try_bug

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every bug that was asked for was caught."""
    options = _parser().parse_args(arguments)
    bugs = [bug for bug in BUGS if _is_wanted(bug, options.only, options.adapter)]
    if not bugs:
        print("no such bug; --list names all")
        return 2
    if options.list:
        print(*(f"{bug.id:34} {bug.breaks}" for bug in bugs), sep="\n")
        return 0
    began = time.monotonic()
    with pristine(ROOT) as tree, ThreadPoolExecutor(options.jobs) as pool:
        print(f"{len(bugs)} bugs; first their tests without any of them …", flush=True)
        if not _are_green(tree, bugs, pool):
            return 1
        print(f"… are green, {time.monotonic() - began:.0f} s", flush=True)
        verdicts = Counter[str]()
        for bug, finding in zip(bugs, pool.map(partial(try_bug, tree), bugs), strict=True):
            _report(bug, finding, is_verbose=options.verbose)
            verdicts[finding.verdict] += 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    print(f"{len(bugs)} bugs: {told}; {time.monotonic() - began:.0f} s")
    return int(verdicts["SURVIVED"] + verdicts["BROKEN"] > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("nox -s bite --", description=__doc__)
    parser.add_argument("--only", action="append", metavar="ID", help="this bug; may be repeated")
    parser.add_argument("--adapter", action="append", choices=sorted({bug.place for bug in BUGS}), help="bugs in this")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="so many at the same time (2)")
    parser.add_argument("--list", action="store_true", help="tell what there is, and plant nothing")
    parser.add_argument("--verbose", action="store_true", help="tell also what each bug breaks, and how it was noticed")
    return parser


def _is_wanted(bug: Bug, only: list[str] | None, places: list[str] | None) -> bool:
    return (only is None or bug.id in only) and (places is None or bug.place in places)


def _are_green(tree: Path, bugs: Sequence[Bug], pool: ThreadPoolExecutor) -> bool:
    """Return whether all of the tests pass where there is no bug; else nothing would be proven."""
    places = [list(group) for _, group in groupby(bugs, key=attrgetter("place"))]
    suites = [list(dict.fromkeys(test for bug in place for test in bug.tests)) for place in places]
    findings = list(pool.map(lambda suite: run(tree, suite, SECONDS_WITHOUT_BUGS), suites))
    for finding in findings:
        if finding.verdict not in ("SURVIVED", "not tried"):
            print(f"not green without any bug: {finding.test} {finding.message}")
    return all(finding.verdict in ("SURVIVED", "not tried") for finding in findings)


def _report(bug: Bug, finding: Finding, *, is_verbose: bool) -> None:
    print(f"{finding.verdict:9} {bug.id:34} {finding.seconds:5.1f} s  {finding.test}", flush=True)
    if is_verbose or finding.verdict != "caught":
        print(f"{'':10}{bug.breaks}")
        print(f"{'':10}{finding.message or 'tried: ' + ' '.join(bug.tests)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
