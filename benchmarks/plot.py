"""A plot of a benchmark's JSON file.

python benchmarks/plot.py output_layer.json output_layer.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# For "python benchmarks/plot.py" as well as "python -m benchmarks.plot".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hashdl.files import atomic_path
from hashdl.training.report import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]


def plot(path: Path, report: Report) -> None:
    """Write the plot that fits the report's benchmark, as PNG."""
    from matplotlib.figure import Figure

    draw = {
        "output_layer": _draw_parts,
        "break_even": _draw_by_rows,
        "scaling": _draw_by_rows,
        "gpu": _draw_by_rows,
        "hogwild": _draw_workers,
        "kernels": _draw_kernels,
        "feed_forward": _draw_feed_forward,
        "retrieval": _draw_retrieval,
        "time_to_accuracy": _draw_accuracy,
        "families": _draw_families,
    }
    benchmark = report["settings"]["benchmark"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    if benchmark == "kdd2017":
        _draw_hidden_layers(figure, report)
    elif benchmark == "width":
        _draw_width(figure, report)
    else:
        draw[benchmark](figure.subplots(), report)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _draw_parts(axes: Axes, report: Report) -> None:
    """Parts of a step side by side on a log scale: stacked bars would hide all but the largest."""
    contenders = {
        name: result for name, result in report["contenders"].items() if "parts_ms" in result
    }
    parts = [p for p in PARTS if any(p in result["parts_ms"] for result in contenders.values())]
    height = 0.8 / (len(parts) + 1)
    for i, part in enumerate(["whole step", *parts]):
        times = [
            result["step_ms"] if part == "whole step" else result["parts_ms"].get(part, 0.0)
            for result in contenders.values()
        ]
        places = [place + (i - len(parts) / 2) * height for place in range(len(contenders))]
        color = "black" if part == "whole step" else None
        axes.barh(places, times, height, label=part, color=color)
    axes.set_yticks(range(len(contenders)), list(contenders))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a step (log scale)")
    settings = report["settings"]
    axes.set_title(f"{settings['rows'][0]:,} rows of {settings['dim']}, batch {settings['batch']}")
    axes.legend(fontsize="small")


def _draw_by_rows(axes: Axes, report: Report) -> None:
    """Step time against rows."""
    for name, result in report["contenders"].items():
        times = {
            int(rows): figures["step_ms"]
            for rows, figures in result["by_rows"].items()
            if "step_ms" in figures  # there was memory enough
        }
        slope = f", rows^{result['exponent']:.2f}" if "exponent" in result else ""
        axes.plot(list(times), list(times.values()), marker="o", label=name + slope)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows of the layer")
    axes.set_ylabel("milliseconds a step")
    settings = report["settings"]
    where = settings.get("optimizer") or settings.get("gpu", "a CPU")
    axes.set_title(f"{settings['dim']} features, batch {settings['batch']}, {where}")
    axes.legend()


def _draw_width(figure: Figure, report: Report) -> None:
    """Multiplications, step time and accuracy against neurons, with the laws that were fitted."""
    settings = report["settings"]
    figure.set_size_inches(13, 4.5)
    figure.suptitle(f"{settings['data']}, {settings['active']} active neurons")
    for axes, key, what in zip(
        figure.subplots(1, 3),
        ("multiplications", "step_ms", "top1"),
        ("multiplications a sample and training step", "milliseconds a step", "test accuracy"),
        strict=True,
    ):
        for name, result in report["contenders"].items():
            rows = [int(rows) for rows in result["by_rows"]]
            values = [figures[key] for figures in result["by_rows"].values()]
            law = result.get("laws", {}).get(key)
            slope = f", neurons^{law['exponent']:.2f}" if law else ""
            axes.plot(rows, values, marker="o", label=name + slope)
        axes.set_xscale("log")
        axes.set_xlabel("hidden neurons")
        axes.set_ylabel(what)
        if key != "top1":
            axes.set_yscale("log")
        axes.legend()


def _draw_workers(axes: Axes, report: Report) -> None:
    """Test accuracy by the number of workers, trained and simulated."""
    for kind in ("workers", "simulated"):
        points = {
            int(name.rpartition("_")[2]): result["top1"]
            for name, result in report["contenders"].items()
            if name.startswith(kind) and "top1" in result
        }
        if points:
            label = "trained" if kind == "workers" else "simulated in lock step"
            axes.plot(list(points), list(points.values()), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("workers")
    axes.set_ylabel("test accuracy")
    settings = report["settings"]
    axes.set_title(f"{settings['data']}, {settings['layers']} hidden layers of {settings['width']}")
    axes.legend()


def _draw_kernels(axes: Axes, report: Report) -> None:
    """Share of what memory and arithmetic allow."""
    kernels = report["kernels"]
    axes.barh(list(kernels), [100 * figures["share"] for figures in kernels.values()])
    axes.invert_yaxis()
    axes.set_xlabel("% of what copy bandwidth and matrix product allow")
    settings = report["settings"]
    axes.set_title(f"{settings['rows']:,} rows of {settings['dim']}, batch {settings['batch']}")


def _draw_feed_forward(axes: Axes, report: Report) -> None:
    """Time and bytes against the share of active neurons, of the dense block's."""
    settings, contenders = report["settings"], report["contenders"]
    hashed = [result for name, result in contenders.items() if name != "dense"]
    shares = [100 * share for share in settings["shares"]]
    for key, label in (("vs_dense", "milliseconds a forward"), ("bytes_share", "bytes read")):
        axes.plot(shares, [result[key] for result in hashed], marker="o", label=label)
    axes.axhline(
        1, color="black", ls=":", label=f"dense: {contenders['dense']['forward_ms']:.2f} ms"
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("% of the neurons active")
    axes.set_ylabel("of the dense block")
    axes.set_title(f"{settings['dim']:,} x {settings['neurons']:,}, batch {settings['batch']}")
    axes.legend()


def _draw_retrieval(axes: Axes, report: Report) -> None:
    """Queries a second against recall, one at a time."""
    for name, result in report["contenders"].items():
        points = [point for point in result["points"].values() if "ms_single" in point]
        points.sort(key=lambda point: float(point["recall"]))
        recalls = [point["recall"] for point in points]
        axes.plot(recalls, [1000 / point["ms_single"] for point in points], marker="o", label=name)
    axes.set_yscale("log")
    axes.set_xlabel(f"recall at {report['settings']['k']}")
    axes.set_ylabel("queries a second, one at a time")
    settings = report["settings"]
    axes.set_title(f"{settings['matrix_rows']:,} rows of {settings['matrix_dim']}")
    axes.legend()


def _draw_accuracy(axes: Axes, report: Report) -> None:
    """Held-out accuracy against training seconds, a line a seed."""
    metric = report["goal"]["metric"]
    for i, (name, result) in enumerate(report["contenders"].items()):
        for j, run in enumerate(result["runs"].values()):
            seconds = [point["seconds"] for point in run["history"]]
            accuracies = [point[metric] for point in run["history"]]
            label = name if j == 0 else None
            axes.plot(seconds, accuracies, color=f"C{i}", lw=1, label=label)
    if report["goal"]["accuracy"] is not None:
        axes.axhline(report["goal"]["accuracy"], color="black", ls=":", label="goal")
    axes.set_xscale("log")
    axes.set_xlabel("training seconds (log scale)")
    axes.set_ylabel(f"held-out {metric}")
    settings = report["settings"]
    axes.set_title(f"{settings['data']}: {settings['n_classes']:,} classes")
    axes.legend()


def _draw_families(axes: Axes, report: Report) -> None:
    """Held-out accuracy after the same passes and the same seconds, the best family first."""
    results = {name: r for name, r in report["contenders"].items() if "same_passes" in r}
    names = sorted(results, key=lambda name: -float(results[name]["same_passes"]))
    for i, (kind, label) in enumerate(
        [("same_passes", "after the same passes"), ("same_seconds", "in the same seconds")]
    ):
        shown = [
            (place, results[name]) for place, name in enumerate(names) if kind in results[name]
        ]
        axes.barh(
            [place + (i - 0.5) * 0.4 for place, _ in shown],
            [result[kind] for _, result in shown],
            0.4,
            xerr=[result[f"{kind}_std"] for _, result in shown],
            label=label,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"held-out {report['comparison']['metric']}")
    settings = report["settings"]
    axes.set_title(f"{settings['data']}: {settings['n_classes']:,} classes")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def _draw_hidden_layers(figure: Figure, report: Report) -> None:
    """Accuracy against the share of multiplications: a panel a data set and depth."""
    panels: dict[tuple[str, int], dict[str, list[Mapping[str, Any]]]] = {}
    for name, result in report["contenders"].items():
        for point in result["points"].values():
            if "top1" in point:
                panel = panels.setdefault((point["data"], point["layers"]), {})
                panel.setdefault(name, []).append(point)
    depths = sorted({layers for _, layers in panels})
    names = list(dict.fromkeys(data for data, _ in panels))
    figure.set_size_inches(4.5 * max(len(names), 1), 4 * max(len(depths), 1))
    grid = figure.subplots(max(len(depths), 1), max(len(names), 1), squeeze=False)
    for (data, layers), lines in panels.items():
        axes = grid[depths.index(layers)][names.index(data)]
        for name, points in lines.items():
            points.sort(key=lambda point: float(point["train_share"]))
            shares = [100 * point["train_share"] for point in points]
            axes.errorbar(
                shares,
                [point["top1"] for point in points],
                [point["top1_std"] for point in points],
                marker="o",
                label=name,
            )
        axes.set_xscale("log")
        axes.set_xlabel("% of the dense multiplications, training")
        axes.set_ylabel("test accuracy")
        axes.set_title(f"{data}, {layers} hidden layers")
        axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, metavar="FILE.json")
    parser.add_argument("png", type=Path, metavar="OUT.png")
    args = parser.parse_args(arguments)
    try:
        plot(args.png, json.loads(args.json.read_text()))
    except (KeyError, OSError, ValueError) as error:
        parser.error(f"{args.json} to {args.png}: {type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
