"""How a hashed step grows with the number of rows, at a fixed budget of active rows.

Step time by part, peak memory (MB above what the process held before), and the exponent of step
time against rows: the slope of log time over log rows by least squares, from --fit-from rows on.
Layers are timed one after the other, since the largest fills the memory by itself; sizes that do
not fit are left out. Steps and inputs are those of output_layer.py.

    python benchmarks/scaling.py --optimizer rowwise_adagrad --json scaling.json
    python benchmarks/scaling.py --rows 1e4 1e5 1e6 --contenders dense hashed --json small.json

With rowwise_adagrad, 10^7 rows of 128 features take about 13 GB, with adam 18 GB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# For "python benchmarks/scaling.py" as well as "python -m benchmarks.scaling".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    exponent,
    make_parser,
    new_report,
    positive,
    run_benchmark,
    save,
)
from benchmarks.layers import CONFIGS, NAMES, available, config_fields
from benchmarks.steps import Setup, add_step_flags, measure_layers
from hashdl.memory import bytes_available

_SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=5)
    parser.add_argument(
        "--rows", type=positive, nargs="+", default=_SIZES, help=f"N (default: {_SIZES})"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=NAMES, default=list(CONFIGS), metavar="NAME"
    )
    parser.add_argument(
        "--fit-from", type=positive, default=100_000, help="fewest rows in the fit (default: 1e5)"
    )
    add_step_flags(parser)
    return parser


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """All contenders at all sizes that fit."""
    args.contenders, args.rows = available(args.contenders), sorted(args.rows)
    fields = config_fields(Setup.of(args, args.rows[0]).configs)
    report = new_report("scaling", args, configs=fields)
    for rows in args.rows:
        setup = Setup.of(args, rows)
        for name in args.contenders:
            if not _fits(name, setup):
                continue
            what = f"{name}, {rows:,} rows"
            figures = measure_layers([name], setup, args.repeat, stop, what)[name]
            result = report["contenders"].setdefault(name, {"by_rows": {}})
            result["by_rows"][str(rows)] = figures
            slope = exponent(result["by_rows"], args.fit_from)
            if slope is not None:
                result["exponent"] = slope
            save(args.json, report)
            if stop():
                return report
    return report


def _fits(name: str, setup: Setup) -> bool:
    needed, free = setup.bytes_needed(name), bytes_available()
    if free is None or needed <= free:
        return True
    print(
        f"{name} at {setup.rows:,} rows is left out: it takes about {needed / 1e9:.1f} GB, and "
        f"{free / 1e9:.1f} GB are free",
        file=sys.stderr,
    )
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
