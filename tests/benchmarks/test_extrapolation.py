"""The page on growth with width, from a tiny report."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from benchmarks import width
from benchmarks.common import make_parser, new_report
from benchmarks.hidden_nets import Hashed
from benchmarks.layers import config_fields
from benchmarks.tables import describe
from hashdl import HashConfig
from hashdl.tables import HashTables

ROOT = Path(__file__).resolve().parents[2]
PAGE = runpy.run_path(str(ROOT / "docs" / "update_extrapolation.py"))
CONFIG = HashConfig(sparse_grad=True, candidates=20, tables=4, bits=3, probes=2)
WIDTHS = (100, 400, 1600, 6400)


def make_report(config: HashConfig = CONFIG) -> dict[str, Any]:
    args = make_parser(None, repeat=None).parse_args([])
    settings = {"data": "digits", "features": 12, "classes": 3, "batch": 4, "epochs": 1}
    settings |= {"rates": [0.001], "active": 10, "active_growth": 0.0}
    settings |= {"fit_from": 100, "neurons": list(WIDTHS)}
    report = new_report("width", args, configs=config_fields({"hashed": config}), **settings)
    for name, power in (("standard", 1.0), ("hashed", 0.25)):
        report["contenders"][name] = {
            "by_rows": {
                str(n): {
                    "multiplications": 40 * n**power,
                    "step_ms": 0.1 * n**power,
                    "top1": 0.9 if name == "standard" else 0.89 - 1e-6 * n,
                }
                for n in WIDTHS
            }
        }
    width.summarize(report, 100)
    return report


def test_the_page_says_what_the_report_does(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps(make_report()))
    PAGE["main"](path, tmp_path / "docs")
    text = (tmp_path / "docs" / "extrapolation.md").read_text()
    assert "| hashed, multiplications | 0.250 | ± 0.000 | 0.250 | 7,113 |" in text
    assert "| standard, ms a step | 1.000 | ± 0.000 | 1.000 | 100,000,000 |" in text
    assert "-1.64 points from the dense one at worst (at 6,400 neurons)" in text
    copies = tmp_path / "docs" / "benchmarks"
    assert json.loads((copies / "width.json").read_text()) == make_report()
    assert (copies / "width.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("changes", [{}, {"selection": "sketch"}, {"rank": 5}])
def test_counted_are_the_multiplications_of_a_net_that_finds_all_it_may(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.replace(bits=1, sketch_bits=32, rehash_every=30).replace(**changes)
    # As many rehashes as the schedule has in the long run.
    monkeypatch.setattr(HashTables, "stats", lambda self: {"rehashes": 1, "step": 30})
    report = make_report(config)
    net = Hashed([12, 100, 3], 10, config.replace(active=10))
    x = width.torch.randn(30, 12)
    # With two buckets, both probed, a look-up finds as many candidates as are kept.
    assert PAGE["counted"](report, 100) == pytest.approx(net.multiplications(x, 4).train)


def test_memory_is_that_of_the_buffers() -> None:
    report = make_report()
    net = Hashed([12, 400, 3], 10, CONFIG.replace(active=10))
    parts = PAGE["gigabytes"](report, 400)
    weights = sum(p.nbytes for p in net.parameters()) - 4 * 3  # the output's bias
    assert parts["weights and biases, float32"] * 1e9 == pytest.approx(weights)
    tables = net.net.hidden[0].up.tables
    buffers = [tables.codes, tables.offsets, tables.rows, tables.dirty]
    assert parts["codes and tables"] * 1e9 == pytest.approx(sum(b.nbytes for b in buffers))


def test_a_report_without_laws_is_refused(tmp_path: Path) -> None:
    report, path = make_report(), tmp_path / "width.json"
    report["contenders"]["hashed"]["laws"] = {}
    path.write_text(json.dumps(report))
    with pytest.raises(ValueError, match="wanted three widths or more"):
        PAGE["main"](path, tmp_path)
    report["settings"]["benchmark"] = "scaling"
    path.write_text(json.dumps(report))
    with pytest.raises(ValueError, match="got a report of scaling"):
        PAGE["main"](path, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_section_of_the_benchmarks_page_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "width.json").write_text(json.dumps(make_report()))
    page = runpy.run_path(str(ROOT / "docs" / "update_benchmarks.py"))
    page["main"](tmp_path, tmp_path / "docs")
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "[extrapolation.md](extrapolation.md)" in text
    assert "multiplications grow as neurons^0.25" in text
    assert "multiplications grow as neurons^0.25" in describe(make_report())


def test_studies_of_hidden_layers_have_sections_once_there_are_figures(tmp_path: Path) -> None:
    report = make_report()
    point = {"data": "digits", "layers": 2, "share": 0.05, "lr": 0.01}
    done = {"top1": 0.5, "top1_std": 0.0, "train_share": 0.04, "test_share": 0.1, "step_ms": 7.0}
    contenders = {
        "kdd2017": {"hashed": {"points": {"digits/2/0.05": point | done}}},
        "hogwild": {
            "workers_1": {"top1": 0.5, "speed_up": 1.0, "met": {"2": 0.25}},
            "simulated_4": {"speed_up_limit": 4.0, "overlap_of_round": 0.5},
        },
    }
    for name, results in contenders.items():
        settings = report["settings"] | {"benchmark": name, "layers": 2, "width": 60}
        some = report | {"settings": settings, "contenders": results}
        (tmp_path / f"{name}.json").write_text(json.dumps(some))
    unfinished = {"hashed": {"points": {"digits/2/0.05": point}}}
    some = report | {"settings": settings | {"benchmark": "kdd2017"}, "contenders": unfinished}
    (tmp_path / "begun.json").write_text(json.dumps(some))
    page = runpy.run_path(str(ROOT / "docs" / "update_benchmarks.py"))
    page["main"](tmp_path, tmp_path / "docs")
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    for text_of_it in ("| hashed 5% ", "4.0%", "7.00", "| simulated_4 ", "25.0%", "50.0%"):
        assert text_of_it in text
    assert text.count("\n## ") == 2
    made = {path.name for path in (tmp_path / "docs" / "benchmarks").iterdir()}
    assert made == {"kdd2017.json", "kdd2017.png", "hogwild.json", "hogwild.png"}
