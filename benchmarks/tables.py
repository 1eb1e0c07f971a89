"""The figures of a report as tables and sentences, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hashdl.training.report import PARTS, cell, render

Report = Mapping[str, Any]


class Figures(NamedTuple):
    """A table.

    Attributes:
        titles: of the columns; the first one names the rows.
        rows: cells, as text.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


def render_figures(figures: Figures, *, markdown: bool = False) -> str:
    """A table as aligned text, or in Markdown."""
    return render(figures.titles, figures.rows, markdown=markdown)


def describe(report: Report) -> str:
    """All tables and sentences of a report, as text."""
    pieces = [render_figures(figures) for figures in tables_of(report)]
    return "\n\n".join([*pieces, *sentences_of(report)])


def tables_of(report: Report) -> list[Figures]:
    """The tables of a report, whichever benchmark it is of."""
    makers = {
        "output_layer": lambda: [_steps(report), _energy(report), _parts(report)],
        "break_even": lambda: [_by_rows(report, "step_ms", "ms a step at {:,} rows")],
        "scaling": lambda: [
            _by_rows(report, "step_ms", "ms a step at {:,} rows"),
            *_where_known(report, "longest_ms", "ms the longest step at {:,} rows"),
            _by_rows(report, "peak_mb", "peak MB at {:,} rows"),
            *(_parts_by_rows(name, result) for name, result in report["contenders"].items()),
        ],
        "kernels": lambda: [_kernels(report)],
        "feed_forward": lambda: [_feed_forward(report)],
        "retrieval": lambda: [_indices(report), _settings(report)],
        "gpu": lambda: [
            _by_rows(report, "step_ms", "ms a step at {:,} rows"),
            _by_rows(report, "vs_dense", "of dense at {:,} rows", "{:.3f}"),
            _by_rows(report, "peak_mb", "peak MB at {:,} rows", "{:,.0f}"),
            *_where_known(report, "find_ms", "ms for the ten best of {:,} rows"),
            *_where_known(report, "find_one_ms", "of one sample, of {:,} rows"),
            *(_parts_by_rows(name, result) for name, result in report["contenders"].items()),
            _bandwidths(report),
        ],
        "width": lambda: [
            _by_rows(report, "multiplications", "multiplications at {:,} neurons"),
            _by_rows(report, "step_ms", "ms a step at {:,} neurons"),
            _by_rows(report, "top1", "top-1 at {:,} neurons", "{:.4f}"),
            *_energy_by_rows(report),
        ],
        "hogwild": lambda: [_workers(report), _met(report)],
        "kdd2017": lambda: _hidden_layers(report),
        "time_to_accuracy": lambda: [_accuracies(report), _parts(report)],
        "families": lambda: [_families(report)],
    }
    return [figures for figures in makers[report["settings"]["benchmark"]]() if figures.rows]


_FINDERS = {"find_break_even_rows": "a batch", "find_one_break_even_rows": "one sample"}
# Each with what it is called, and where it comes from.
_JOULES = (
    ("joules_step", "J a step, measured", "energy_source"),
    ("joules_step_estimated", "J a step, estimated", "estimate_source"),
)


def sentences_of(report: Report) -> list[str]:
    """What a report says beside its tables."""
    lines = []
    for name, result in report["contenders"].items():
        if "exponent" in result:
            lines.append(f"{name}: step time grows as rows^{result['exponent']:.2f}")
        for key, law in result.get("laws", {}).items():
            lines.append(
                f"{name}: {key} grow as neurons^{law['exponent']:.2f} ± {law['error']:.2f} "
                f"(95 %, {law['points']} widths)"
            )
        if "break_even_rows" in result:
            lines.append(f"{name}: {_break_even(result)}")
        lines += [
            f"{name}: finds the ten best of {whom} as fast as dense at {result[key]:,.0f} rows"
            for key, whom in _FINDERS.items()
            if result.get(key) is not None
        ]
    lines += [f"energy: {source}" for source in _energy_sources(report)]
    lines += _comparison(report.get("comparison", {}))
    machine, goal = report["machine"], report.get("goal", {}).get("accuracy")
    if "copy_gb_per_s" in machine:
        rows = (
            f"random rows {machine['row_reads_gb_per_s']:.1f} GB/s, "
            if "row_reads_gb_per_s" in machine
            else ""
        )
        lines.append(
            f"copy {machine['copy_gb_per_s']:.1f} GB/s (read and written), {rows}"
            f"float32 product {machine['sgemm_gflop_per_s']:.0f} GFLOP/s"
        )
    if goal is not None:
        lines.append(f"goal: dense's best less 1 point, {report['goal']['metric']} {goal:.3f}")
    return lines


def _comparison(comparison: Mapping[str, Any]) -> list[str]:
    """How the tuner's configuration did."""
    told = {
        "tuned_less_best_family": "in the same seconds, tuned less the best family",
        "tuned_less_oracle": "after the same passes, tuned less the oracle",
    }
    return [
        f"{text}: {100 * comparison[key]:+.2f} points of {comparison['metric']}"
        for key, text in told.items()
        if comparison.get(key) is not None
    ]


def _break_even(result: Mapping[str, Any]) -> str:
    rows = result["break_even_rows"]
    if rows is not None:
        return f"as fast as dense at {rows:,.0f} rows"
    known = [figures["vs_dense"] for figures in result["by_rows"].values() if "vs_dense" in figures]
    if known[-1] <= 1:
        return "faster than dense at all sizes"
    return "slower than dense at the largest size"


def _columns(
    results: Mapping[str, Mapping[str, Any]], columns: Sequence[tuple[str, str, str]]
) -> Figures:
    """A row a result, and of the columns (title, key, pattern) those that some result has."""
    used = [column for column in columns if any(column[1] in result for result in results.values())]
    rows = [
        [name, *(cell(result.get(key), pattern) for _, key, pattern in used)]
        for name, result in results.items()
    ]
    return Figures(["", *(title for title, _, _ in used)], rows)


def _steps(report: Report) -> Figures:
    return _columns(
        report["contenders"],
        (
            ("ms a step", "step_ms", "{:.2f}"),
            ("longest step", "longest_ms", "{:.2f}"),
            ("of dense", "vs_dense", "{:.3f}"),
            ("of sampled_1000", "vs_sampled_1000", "{:.2f}"),
            ("rows read", "rows_read", "{:,.0f}"),
            ("peak MB", "peak_mb", "{:,.0f}"),
        ),
    )


def _energy(report: Report) -> Figures:
    """Joules a step by contender; no rows where none has any."""
    counted = {
        name: result
        for name, result in report["contenders"].items()
        if any(key in result for key, _, _ in _JOULES)
    }
    columns = [(title, key, "{:.3g}") for key, title, _ in _JOULES]
    columns += [(part, f"joules_{part}", "{:.3g}") for part in ("arithmetic", "memory")]
    return _columns(counted, columns)


def _where_known(
    report: Report, key: str, title: str, pattern: str = "{:,.2f}"
) -> Iterator[Figures]:
    """:func:`_by_rows` of a figure that there is."""
    results = [by for result in report["contenders"].values() for by in result["by_rows"].values()]
    if any(key in result for result in results):
        yield _by_rows(report, key, title, pattern)


def _energy_by_rows(report: Report) -> Iterator[Figures]:
    """A table for each kind of figure that there is."""
    for key, title, _ in _JOULES:
        yield from _where_known(report, key, f"{title} at {{:,}} neurons", "{:.3g}")


def _energy_sources(report: Report) -> list[str]:
    """Where joules come from, or why they were not measured."""
    results = list(report["contenders"].values())
    for group in ("by_rows", "points"):
        results += [one for result in results for one in result.get(group, {}).values()]
    keys = [source for _, _, source in _JOULES]
    return list(dict.fromkeys(one[key] for key in keys for one in results if key in one))


def _parts(report: Report) -> Figures:
    parts = {
        name: result["parts_ms"]
        for name, result in report["contenders"].items()
        if "parts_ms" in result
    }
    return _part_columns("ms a step", parts)


def _parts_by_rows(name: str, result: Mapping[str, Any]) -> Figures:
    parts = {
        f"{int(rows):,} rows": figures["parts_ms"]
        for rows, figures in result["by_rows"].items()
        if "parts_ms" in figures
    }
    return _part_columns(f"{name}, ms a step", parts)


def _part_columns(corner: str, parts: Mapping[str, Mapping[str, float]]) -> Figures:
    figures = _columns(parts, [(part, part, "{:.2f}") for part in PARTS])
    return Figures([corner, *figures.titles[1:]], figures.rows)


def _by_rows(report: Report, key: str, title: str, pattern: str = "{:,.2f}") -> Figures:
    """A row a contender, a column a number of rows."""
    by_name = {name: result["by_rows"] for name, result in report["contenders"].items()}
    sizes = list(dict.fromkeys(rows for by_rows in by_name.values() for rows in by_rows))
    cells = [
        [name, *(cell(by_rows.get(rows, {}).get(key), pattern) for rows in sizes)]
        for name, by_rows in by_name.items()
    ]
    return Figures(["", *(title.format(int(rows)) for rows in sizes)], cells)


def _kernels(report: Report) -> Figures:
    megabytes = {
        name: figures | {"mb": figures["bytes"] / 1e6, "mflop": figures["flops"] / 1e6}
        for name, figures in report["kernels"].items()
    }
    return _columns(
        megabytes,
        (
            ("MB moved", "mb", "{:.2f}"),
            ("MFLOP", "mflop", "{:.1f}"),
            ("ideal ms", "ideal_ms", "{:.3f}"),
            ("ms", "ms", "{:.3f}"),
            ("of copy", "share", "{:.0%}"),
            ("of row reads", "share_of_row_reads", "{:.0%}"),
        ),
    )


def _feed_forward(report: Report) -> Figures:
    return _columns(
        report["contenders"],
        (
            ("ms a forward", "forward_ms", "{:.3f}"),
            ("of dense", "vs_dense", "{:.3f}"),
            ("rows read", "rows_read", "{:,.0f}"),
            ("columns read", "columns_read", "{:,.0f}"),
            ("bytes", "bytes_share", "{:.1%}"),
            ("firing", "firing", "{:.1%}"),
            ("energy", "energy", "{:.1%}"),
            ("relative error", "relative_error", "{:.3f}"),
            ("of the largest", "relative_error_of_largest", "{:.3f}"),
        ),
    )


def _bandwidths(report: Report) -> Figures:
    return _columns(
        report.get("kernels", {}),
        (
            ("MB moved", "mb", "{:.1f}"),
            ("ms", "ms", "{:.3f}"),
            ("GB/s", "gb_a_second", "{:,.0f}"),
            ("of a copy", "share_of_copy", "{:.0%}"),
        ),
    )


def _indices(report: Report) -> Figures:
    """What each index costs, and its speed at the recall compared at."""
    at, batch = report["settings"]["at"], report["settings"]["batch"]
    return _columns(
        report["contenders"],
        (
            ("s to build", "build_seconds", "{:.2f}"),
            ("MB beside the rows", "index_mb", "{:,.1f}"),
            (f"ms a query at recall {at:g}", "ms_single_at", "{:.3f}"),
            (f"in batches of {batch}", "ms_batch_at", "{:.4f}"),
        ),
    )


def _settings(report: Report) -> Figures:
    """Every setting of every contender."""
    points = {
        f"{name}, {setting}": point
        for name, result in report["contenders"].items()
        for setting, point in result["points"].items()
    }
    return _columns(
        points,
        (
            ("recall", "recall", "{:.4f}"),
            ("rows read", "rows_read", "{:.2%}"),
            ("ms a query", "ms_single", "{:.3f}"),
            ("in batches", "ms_batch", "{:.4f}"),
        ),
    )


def _accuracies(report: Report) -> Figures:
    metric = report.get("goal", {}).get("metric", "top1")
    return _columns(
        report["contenders"],
        (
            ("passes", "epochs", "{:g}"),
            ("samples a step", "batch", "{}"),
            ("rate", "lr", "{:g}"),
            ("ms a step", "step_ms", "{:.2f}"),
            ("training s", "train_seconds", "{:.1f}"),
            (f"last {metric}", metric, "{:.4f}"),
            (f"best {metric}", f"best_{metric}", "{:.4f}"),
            ("±", f"best_{metric}_std", "{:.4f}"),
            ("s to goal", "seconds_to_goal", "{:.1f}"),
            ("±", "seconds_to_goal_std", "{:.1f}"),
            ("runs that reached it", "reached", "{}"),
        ),
    )


def _families(report: Report) -> Figures:
    metric = report.get("comparison", {}).get("metric", "accuracy")
    return _columns(
        {name: result for name, result in report["contenders"].items() if result["runs"]},
        (
            ("rate", "lr", "{:g}"),
            ("ms a step", "step_ms", "{:.2f}"),
            ("training s", "train_seconds", "{:.1f}"),
            (f"{metric}, same passes", "same_passes", "{:.4f}"),
            ("±", "same_passes_std", "{:.4f}"),
            (f"{metric}, same seconds", "same_seconds", "{:.4f}"),
            ("±", "same_seconds_std", "{:.4f}"),
            ("recall at 10", "recall", "{:.3f}"),
            ("of the gradient", "gradient", "{:.3f}"),
        ),
    )


def _hidden_layers(report: Report) -> list[Figures]:
    """A table a data set and depth: a row a method and share."""
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, result in report["contenders"].items():
        for point in result["points"].values():
            if "top1" in point:
                title = f"{point['data']}, {point['layers']} hidden layers"
                tables.setdefault(title, {})[f"{name} {100 * point['share']:g}%"] = point
    columns = (
        ("rate", "lr", "{:g}"),
        ("top-1", "top1", "{:.4f}"),
        ("±", "top1_std", "{:.4f}"),
        ("of dense", "top1_vs_standard", "{:+.4f}"),
        ("multiplications, training", "train_share", "{:.1%}"),
        ("multiplications, test", "test_share", "{:.1%}"),
        ("ms a step", "step_ms", "{:.2f}"),
        *((title, key, "{:.3g}") for key, title, _ in _JOULES),
    )
    made = []
    for title, points in tables.items():
        figures = _columns(points, columns)
        made.append(Figures([title, *figures.titles[1:]], figures.rows))
    return made


def _workers(report: Report) -> Figures:
    return _columns(
        report["contenders"],
        (
            ("training s", "train_seconds", "{:.1f}"),
            ("speed-up", "speed_up", "{:.2f}"),
            ("at most", "speed_up_limit", "{:.1f}"),
            ("CPU s, all workers", "cpu_seconds", "{:.1f}"),
            ("of it tables", "tables_share", "{:.1%}"),
            ("top-1", "top1", "{:.4f}"),
            ("overlap of two steps", "overlap", "{:.1%}"),
            ("of all steps of a round", "overlap_of_round", "{:.1%}"),
        ),
    )


def _met(report: Report) -> Figures:
    """Share of a step's updates that others would make as well, by number of workers."""
    measured = {name: result for name, result in report["contenders"].items() if "met" in result}
    met = {name: result["met"] for name, result in measured.items()}
    numbers = list(dict.fromkeys(number for by_number in met.values() for number in by_number))
    figures = _columns(met, [(f"met by {n} workers", n, "{:.1%}") for n in numbers])
    return Figures(["if steps are independent", *figures.titles[1:]], figures.rows)
