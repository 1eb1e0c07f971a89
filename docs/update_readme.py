"""Write the demo's figures into README.md: ``python docs/update_readme.py hashdl-demo``.

Takes ``demo.json`` and ``demo.png`` of a folder, and ``rates.json`` where the rates were searched;
keeps copies in docs/, so that every figure in the README can be traced.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from hashdl.training.report import comparison

DOCS = Path(__file__).resolve().parent
README = DOCS.parent / "README.md"
BEGIN, END = "<!-- demo:begin -->\n", "<!-- demo:end -->\n"


def table(report: dict[str, Any]) -> str:
    """The contenders as a Markdown table."""
    lines = [
        "| output layer | rate | training | a step | top-1 | top-5 | rows read | multiplications |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in report["contenders"].items():
        lines.append(
            f"| {name} | {result['lr']:g} | {result['train_seconds']:.0f} s "
            f"| {result['step_ms']:.1f} ms | {result['top1']:.3f} | {result['top5']:.3f} "
            f"| {result['touched']:.2%} | {result['multiplications_vs_dense']:.2%} |"
        )
    return "\n".join(lines)


def section(report: dict[str, Any]) -> str:
    """What the README says of the demo."""
    settings, machine = report["settings"], report["machine"]
    sentences = "\n".join(f"- {line}" for line in comparison(report))
    hashed = report["contenders"]["hashed"]
    return f"""\
![Held-out accuracy against training seconds](docs/demo.png)

`make demo`, on {machine["threads"]} threads of an {machine["processor"]}
({machine["simd"]}), torch {machine["torch"]}: {settings["samples"]:,} Norwegian word forms,
{settings["n_classes"]:,} lemmas to choose from, {settings["held_out"]:,} held-out forms,
{settings["hidden"]} hidden units, batches of 256, seed {settings["seed"]}; each contender at the
best of the learning rates tried on a validation split ([docs/rates.json](docs/rates.json)).

{table(report)}

{sentences}
- by its tables alone (no dense product), hashed answers {hashed["top1_by_tables"]:.3f} top-1
  and reads {hashed["touched_by_tables"]:.2%} of the rows a query

"""


def main(folder: Path) -> None:
    """Rewrite the section between the markers."""
    report = json.loads((folder / "demo.json").read_text())
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(before + BEGIN + section(report) + END + after)
    for name in ("demo.json", "demo.png", "rates.json"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, DOCS / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the demo has left its results")
    main(parser.parse_args().folder)
