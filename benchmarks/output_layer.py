"""What one training step of a huge output layer costs, for each way to compute it.

A step is zero_grad, forward, loss, backward (to the gradient of the layer's input), optimizer and,
for hashed layers, its share of the rehashes. Inputs are synthetic: rectified Gaussians around 64
directions, new ones each step, drawn outside of the timing. Blocks of steps are timed, contender
after contender, in rounds; figures are medians of the rounds, in milliseconds a step.

    python benchmarks/output_layer.py --rows 670000 --dim 128 --batch 256 --json output_layer.json
    python benchmarks/output_layer.py --break-even --batch 128 --json break_even.json

--break-even measures the dense and the hashed layers at several numbers of rows and interpolates
(log time against log rows) where a hashed step takes as long as the dense one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# For "python benchmarks/output_layer.py" as well as "python -m benchmarks.output_layer".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    crossing,
    make_parser,
    new_report,
    positive,
    run_benchmark,
    save,
)
from benchmarks.layers import CONFIGS, NAMES, available, config_fields
from benchmarks.steps import Setup, add_step_flags, measure_layers

_SIZES = (1000, 2000, 5000, 10_000, 20_000, 50_000)


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=7)
    parser.add_argument(
        "--rows",
        type=positive,
        nargs="+",
        help=f"N (default: 670000); with --break-even several (default: {_SIZES})",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=NAMES,
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: all; with --break-even dense and hashed ones)",
    )
    parser.add_argument(
        "--break-even", action="store_true", help="find the rows where hashing begins to pay"
    )
    add_step_flags(parser)
    return parser


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """One size, or the sweep."""
    return measure_break_even(args, stop) if args.break_even else measure_size(args, stop)


def measure_size(args: argparse.Namespace, stop: StopWanted) -> Report:
    """All contenders at one number of rows.

    Raises:
        ValueError: several numbers of rows.
    """
    args.rows = args.rows or [670_000]
    if len(args.rows) > 1:
        raise ValueError(f"--rows: got {len(args.rows)} values, wanted one without --break-even")
    args.contenders = available(args.contenders or NAMES)
    setup = Setup.of(args, args.rows[0])
    report = new_report("output_layer", args, configs=config_fields(setup.configs))
    report["contenders"] = measure_layers(
        args.contenders, setup, args.repeat, stop, f"{setup.rows:,} rows"
    )
    return report


def measure_break_even(args: argparse.Namespace, stop: StopWanted) -> Report:
    """The dense layer and hashed ones at several sizes, and where they cost the same."""
    args.rows = sorted(args.rows or _SIZES)
    args.contenders = list(dict.fromkeys(["dense", *(args.contenders or CONFIGS)]))
    fields = config_fields(Setup.of(args, args.rows[0]).configs)
    report = new_report("break_even", args, configs=fields)
    contenders = report["contenders"]
    for rows in args.rows:
        setup = Setup.of(args, rows)
        results = measure_layers(args.contenders, setup, args.repeat, stop, f"{rows:,} rows")
        for name, result in results.items():
            contenders.setdefault(name, {"by_rows": {}})["by_rows"][str(rows)] = result
            if name != "dense":
                contenders[name]["break_even_rows"] = crossing(contenders[name]["by_rows"])
        save(args.json, report)
        if stop():
            break
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
