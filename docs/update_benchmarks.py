"""Write docs/benchmarks.md from JSON files: ``python docs/update_benchmarks.py FOLDER``.

Every file that a script of benchmarks/ wrote becomes a section with tables and a plot; benchmarks
without a file, or without a finished run in it, have none. The files are copied to
docs/benchmarks/, so that every figure of the page can be traced.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

# For "python docs/update_benchmarks.py": benchmarks/ is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plot import plot
from benchmarks.tables import render_figures, sentences_of, tables_of

DOCS = Path(__file__).resolve().parent
#: Benchmarks in the order of the page, and what their section is called.
TITLES = {
    "output_layer": "A training step of a huge output layer",
    "break_even": "From how many rows hashing pays",
    "time_to_accuracy": "Accuracy against training seconds",
    "families": "Hash families in training",
    "scaling": "Growth with the number of rows",
    "kernels": "Kernels against the machine",
    "retrieval": "Finding the largest outputs",
    "feed_forward": "A feed-forward block at batch 1",
    "kdd2017": "Hidden layers: accuracy against multiplications",
    "width": "Growth with the width of a hidden layer",
    "hogwild": "Training by processes without locks",
    "gpu": "Huge output layers on a GPU",
}
# Of the settings, these are told by the tables or too long for a line.
_UNTOLD = ("benchmark", "configs", "contenders", "break_even", "rates")
# Pages that say more of a benchmark than its section.
_PAGES = {"width": "extrapolation.md", "gpu": "cuda.md"}


def section(stem: str, report: dict[str, Any]) -> str:
    """One benchmark's part of the page.

    Args:
        stem: name of its files, without what follows the dot.
        report: its JSON.
    """
    machine, settings = report["machine"], report["settings"]
    told = ", ".join(
        f"{name} {value}"
        for name, value in settings.items()
        if name not in _UNTOLD and value is not None
    )
    tables = "\n\n".join(render_figures(figures, markdown=True) for figures in tables_of(report))
    lines = sentences_of(report)
    if settings["benchmark"] in _PAGES:
        other = _PAGES[settings["benchmark"]]
        lines.append(f"more of it, and where it leads: [{other}]({other})")
    sentences = "".join(f"- {line}\n" for line in lines)
    return f"""\
## {TITLES[settings["benchmark"]]}

{machine["threads"]} threads of an {machine["processor"]} ({machine.get("simd", "no extension")}),
torch {machine["torch"]}; {told}. All settings and figures:
[{stem}.json](benchmarks/{stem}.json).

![{TITLES[settings["benchmark"]]}](benchmarks/{stem}.png)

{tables}

{sentences}"""


def main(folder: Path, docs: Path = DOCS) -> None:
    """Write the page.

    Args:
        folder: of the JSON files.
        docs: where ``benchmarks.md`` and the folder ``benchmarks`` stand.

    Raises:
        ValueError: there is no report of a finished run.
    """
    order = list(TITLES)
    found: list[tuple[int, Path, dict[str, Any]]] = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        benchmark = report.get("settings", {}).get("benchmark")
        unfinished = benchmark == "time_to_accuracy" and "goal" not in report
        if benchmark in TITLES and not unfinished and tables_of(report):
            found.append((order.index(benchmark), path, report))
    if not found:
        raise ValueError(f"{folder}: got no report of a finished run, wanted those of benchmarks/")
    copies = docs / "benchmarks"
    copies.mkdir(parents=True, exist_ok=True)
    sections = []
    for _, path, report in sorted(found, key=lambda entry: entry[:2]):
        if path.resolve() != (copies / path.name).resolve():
            shutil.copyfile(path, copies / path.name)
        plot(copies / f"{path.stem}.png", report)
        sections.append(section(path.stem, report))
    introduction = """\
# Benchmarks

Written by `docs/update_benchmarks.py`; what is measured, and how to measure it anew, stands in
[benchmarks/README.md](../benchmarks/README.md).
"""
    (docs / "benchmarks.md").write_text("\n".join([introduction, *sections]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the JSON files: all that the page is to show")
    main(parser.parse_args().folder)
