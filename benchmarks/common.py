"""What all benchmarks share: flags, rounds, the JSON report, and how a script begins and ends."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables import describe
from hashdl.files import check_file_writable
from hashdl.memory import keep_large_blocks
from hashdl.progress import track
from hashdl.training.interrupt import stop_requests
from hashdl.training.measure import machine
from hashdl.training.report import write_json

#: ``{"machine": …, "settings": …, "contenders": {NAME: {"step_ms": …, …}}}``
Report = dict[str, Any]
#: Tells whether Ctrl-C was pressed.
StopWanted = Callable[[], bool]

# Where the report goes and how it is shown are no settings; threads stand under "machine".
_NOT_SETTINGS = ("json", "threads")
#: What a machine's description says of threads.
_THREADS = ("threads", "torch_threads")


def positive(text: str) -> int:
    """A flag's value that counts something; "1e5" is 100000."""
    value = float(text)
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"got {text}, wanted an int of 1 or more")
    return int(value)


def make_parser(doc: str | None, *, repeat: int | None) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark.

    Args:
        doc: the script's docstring, shown by ``--help``.
        repeat: default of ``--repeat``; None: the script has no such flag.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = parser.add_argument_group("shared by all benchmarks")
    shared.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    shared.add_argument("--threads", type=positive, help="threads (default: torch's)")
    shared.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    if repeat is not None:
        shared.add_argument(
            "--repeat",
            type=positive,
            default=repeat,
            help=f"rounds; figures are their medians (default: {repeat})",
        )
    return parser


def crossing(by_rows: Mapping[str, Mapping[str, float]], ratio: str = "vs_dense") -> float | None:
    """Rows from which a ratio stays at 1 or below, interpolated in logarithms.

    Args:
        by_rows: figures by number of rows, ascending.
        ratio: which of the figures, time over that of the dense layer; left out where it is not.

    Returns:
        None where the last ratio is above 1, or the first already below it.

    Examples:
        >>> round(crossing({"100": {"vs_dense": 10.0}, "10000": {"vs_dense": 0.1}}))
        1000
    """
    known = [(int(rows), figures[ratio]) for rows, figures in by_rows.items() if ratio in figures]
    logs = np.log(np.reshape(known, (-1, 2)))
    above = np.flatnonzero(logs[:, 1] > 0)
    if len(above) == 0 or above[-1] == len(known) - 1:
        return None
    before, after = logs[above[-1]], logs[above[-1] + 1]
    # np.interp wants ascending abscissas, and the ratio falls between these two.
    return float(np.exp(np.interp(0.0, [after[1], before[1]], [after[0], before[0]])))


def new_report(benchmark: str, args: argparse.Namespace, **settings: object) -> Report:
    """A report without figures.

    Args:
        benchmark: which one; tables and plots are chosen by it.
        args: the flags, recorded as settings.
        **settings: more of them.
    """
    flags = {name: value for name, value in vars(args).items() if name not in _NOT_SETTINGS}
    if isinstance(flags.get("data"), str):
        flags["data"] = _without_folders(flags["data"])
    return {
        "machine": machine(),
        "settings": {"benchmark": benchmark} | flags | settings,
        "contenders": {},
    }


def _without_folders(data: str) -> str:
    """Where files lie is no part of what was measured.

    Examples:
        >>> _without_folders("xmc:/data/train.txt,test.txt"), _without_folders("lemmas")
        ('xmc:train.txt,test.txt', 'lemmas')
    """
    kind, colon, paths = data.partition(":")
    return kind + colon + ",".join(Path(path).name for path in paths.split(",") if path)


def save(path: Path | None, report: Report) -> None:
    """Write the report where ``--json`` says, if it does."""
    if path is not None:
        write_json(path, report)


def add_retime_flag(group: argparse._ArgumentGroup) -> None:
    """``--retime``: see :func:`as_finished`."""
    group.add_argument(
        "--retime",
        action="store_true",
        help="measure the times of a finished --json again, in --repeat rounds; nothing is trained",
    )


def as_finished(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with which a finished report was made, only its times are to be measured again.

    Args:
        args: of which ``--repeat`` holds still.

    Raises:
        ValueError: there is none.
    """
    if args.json is None or not args.json.exists():
        raise ValueError(f"--retime: --json: got {args.json}, wanted a finished study's file")
    settings = json.loads(args.json.read_text())["settings"]
    kept = {name: settings[name] for name in vars(args) if name in settings}
    return argparse.Namespace(**vars(args) | kept | {"repeat": args.repeat, "retime": True})


def continued(
    path: Path | None, report: Report, may_change: Sequence[str], *, threads_too: bool = False
) -> Report:
    """The report, with what an earlier run left in its file.

    Args:
        path: of ``--json``.
        report: without figures.
        may_change: settings that may differ between the two.
        threads_too: so may the numbers of threads, on which no accuracy depends: all times are
            to be measured again.

    Raises:
        ValueError: that file holds another experiment, or one of another machine.
    """
    if path is None or not path.exists():
        return report
    earlier: Report = json.loads(path.read_text())
    # As JSON has it: tuples are lists there.
    wanted = json.loads(json.dumps(report))
    may_differ = {"settings": may_change, "machine": _THREADS if threads_too else ()}
    for group, free in may_differ.items():
        have = earlier.get(group, {})
        for name, value in wanted[group].items():
            if name not in free and have.get(name) != value:
                raise ValueError(
                    f"{path}: made with {name} = {have.get(name)!r}, this run has {value!r}: "
                    "name another file"
                )
    kept = {name: earlier[name] for name in ("contenders", "goal") if name in earlier}
    return report | kept


def exponent(
    by_rows: Mapping[str, Mapping[str, Any]], fit_from: int, key: str = "step_ms"
) -> float | None:
    """Slope of the log of a figure over log rows; None with fewer than two sizes to fit.

    Args:
        by_rows: results by rows.
        fit_from: fewest rows that count.
        key: of the figure.
    """
    fitted = [rows for rows in by_rows if int(rows) >= fit_from]
    if len(fitted) < 2:
        return None
    figures = [by_rows[rows][key] for rows in fitted]
    return float(np.polyfit(np.log([float(rows) for rows in fitted]), np.log(figures), 1)[0])


def spread(values: Sequence[float]) -> float:
    """Standard deviation; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def interleave(
    measures: Mapping[str, Callable[[], float]], repeat: int, stop: StopWanted, what: str
) -> dict[str, list[float]]:
    """Measure in rounds, everything once a round: drift of the machine hits all alike.

    Args:
        measures: what to measure, by name.
        repeat: rounds.
        stop: ends the measurement after the measure in progress; its round is left out.
        what: shown beside the progress.

    Returns:
        The values of all whole rounds, by name.

    Raises:
        KeyboardInterrupt: stopped before the first round was whole.
    """
    rounds: dict[str, list[float]] = {name: [] for name in measures}
    for number in track(range(repeat), what):
        values: dict[str, float] = {}
        for name, measure in measures.items():
            values[name] = measure()
            if stop() and len(values) < len(measures):
                if number == 0:
                    raise KeyboardInterrupt
                return rounds
        for name, value in values.items():
            rounds[name].append(value)
        if stop():
            break
    return rounds


def run_benchmark(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace, StopWanted], Report],
    arguments: Sequence[str] | None,
) -> int:
    """Parse, measure, write and print; the exit status (130 after Ctrl-C, 2 for bad arguments).

    Args:
        parser: of :func:`make_parser`.
        measure: makes the report; on Ctrl-C it returns what it has.
        arguments: the command line; None: that of the process.
    """
    args = parser.parse_args(arguments)
    keep_large_blocks()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        if args.json is not None:
            check_file_writable(args.json)
        with stop_requests() as stop:
            report = measure(args, stop)
            save(args.json, report)
            print(describe(report))
            return 130 if stop() else 0
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
