"""Indices: tables saved, and loaded into a layer with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, index

N, D = 300, 12
Save = Callable[[str], Any]


def layer_of(seed: int = 0, **changes: Any) -> HashLinear:
    torch.manual_seed(seed)
    config = HashConfig(**({"family": "kmeans", "tables": 1, "active": 20} | changes))
    layer = HashLinear(D, N, config=config).eval()
    layer.calibrate(torch.randn(40, D))
    return layer


def twin_of(layer: HashLinear) -> HashLinear:
    """The same weights; tables of its own."""
    twin = HashLinear(D, N, config=layer.config).eval()
    twin.load_state_dict(layer.state_dict())
    return twin


def buffers_of(layer: HashLinear) -> dict[str, torch.Tensor]:
    assert layer.tables is not None
    return {name: buffer.clone() for name, buffer in layer.tables.named_buffers()}


@pytest.mark.parametrize("family", ["kmeans", "simhash"])
@pytest.mark.parametrize(
    ("selection", "levels"), [("exact", 2), ("sketch", 2), ("sketch", 16)], ids=str
)
def test_a_loaded_index_answers_as_the_one_that_was_saved(
    tmp_path: Path, selection: str, levels: int, family: str
) -> None:
    how = {"selection": selection, "sketch_levels": levels, "sketch_bits": 32}
    layer = layer_of(family=family, **how)
    layer.save_index(tmp_path / "index.pt")
    twin = twin_of(layer)
    queries = torch.randn(50, D)
    assert not torch.equal(twin.tables.functions, layer.tables.functions)
    twin.load_index(tmp_path / "index.pt")
    for one, other in zip(layer.topk(queries, 5), twin.topk(queries, 5), strict=True):
        assert torch.equal(one, other)
    state = "state"  # where the weight lies is a matter of each layer
    own, loaded = buffers_of(layer), buffers_of(twin)
    assert all(torch.equal(own[name], loaded[name]) for name in own if name != state)


def test_an_index_fits_a_layer_whose_weight_was_assigned(tmp_path: Path) -> None:
    layer = layer_of()
    layer.save_index(tmp_path / "index.pt")
    twin = HashLinear(D, N, config=layer.config, device="meta").eval()
    twin.load_state_dict(layer.state_dict(), assign=True)
    twin.load_index(tmp_path / "index.pt")
    queries = torch.randn(50, D)
    for one, other in zip(layer.topk(queries, 5), twin.topk(queries, 5), strict=True):
        assert torch.equal(one, other)


def test_an_index_is_saved_up_to_date(tmp_path: Path) -> None:
    layer = layer_of()
    with torch.no_grad():
        layer.weight.neg_()
    layer.save_index(tmp_path / "index.pt")
    twin = twin_of(layer)
    twin.load_index(tmp_path / "index.pt")
    codes = twin.tables.codes.clone()
    layer.topk(torch.randn(1, D), 1)
    assert torch.equal(codes, layer.tables.codes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda twin: twin.weight.data[3].neg_(), "it is of other weights"),
        (lambda twin: twin.bias.data[3].add_(1), "it is of other weights"),
        (lambda twin: twin.double(), "it is of other weights"),
    ],
)
def test_an_index_of_other_weights_is_refused(
    tmp_path: Path, change: Callable[[HashLinear], Any], match: str
) -> None:
    layer = layer_of()
    layer.save_index(tmp_path / "index.pt")
    twin = twin_of(layer)
    change(twin)
    before = buffers_of(twin)
    with pytest.raises(ValueError, match=match):
        twin.load_index(tmp_path / "index.pt")
    after = buffers_of(twin)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_index_of_another_configuration_is_refused(tmp_path: Path) -> None:
    layer_of(probes=3).save_index(tmp_path / "index.pt")
    with pytest.raises(ValueError, match="its configuration differs in center"):
        layer_of(probes=2, center=False).load_index(tmp_path / "index.pt")


def test_an_index_may_be_used_and_trained_otherwise(tmp_path: Path) -> None:
    layer = layer_of(probes=2)
    layer.save_index(tmp_path / "index.pt")
    trained = {"sparse_grad": True, "rehash_every": 7, "shared": 5}
    other = HashLinear.from_linear(layer, layer.config.replace(probes=3, active=30, **trained))
    other.load_index(tmp_path / "index.pt")
    assert torch.equal(other.tables.codes, layer.tables.codes)
    assert torch.isfinite(other.eval().topk(torch.randn(4, D), 3)[0]).all()


def test_an_index_of_another_size_is_refused(tmp_path: Path) -> None:
    layer = layer_of()
    layer.save_index(tmp_path / "index.pt")
    other = HashLinear(D, N + 1, config=layer.config)
    with pytest.raises(ValueError, match=r"it is of a weight of shape \(300, 12\)"):
        other.load_index(tmp_path / "index.pt")


def test_tables_of_another_layout_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of()
    with monkeypatch.context() as patch:
        patch.setattr(index, "_LAYOUT", index._LAYOUT[:-1])
        layer.save_index(tmp_path / "index.pt")
    with pytest.raises(ValueError, match="tables of another version of hashdl: save it anew"):
        layer.load_index(tmp_path / "index.pt")


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of()
    monkeypatch.setattr(index, "_VERSION", 99)
    layer.save_index(tmp_path / "index.pt")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="its version is 99, wanted 2"):
        layer.load_index(tmp_path / "index.pt")


@pytest.mark.parametrize("content", [b"", b"garbage", "other"])
def test_a_file_that_is_no_index_is_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "index.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"index .*index.pt: it (cannot be read|is no index)"):
        layer_of().load_index(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        layer_of().load_index(tmp_path / "index.pt")


def test_an_interrupted_save_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, path = layer_of(), tmp_path / "index.pt"
    layer.save_index(path)
    before = path.read_bytes()

    def interrupted(content: object, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        layer.save_index(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_layer_without_tables_has_no_index(tmp_path: Path) -> None:
    layer = HashLinear(D, N, config=HashConfig(active=1.0))
    for method in (layer.save_index, layer.load_index):
        with pytest.raises(ValueError, match="the layer has no tables"):
            method(tmp_path / "index.pt")


# ---- HashSoftmaxWithLoss -----------------------------------------------------------------------


def test_a_head_and_its_layer_have_the_same_index(tmp_path: Path) -> None:
    layer = layer_of()
    head = HashSoftmaxWithLoss.from_linear(layer, layer.config).eval()
    head.linear.calibrate(torch.randn(40, D))
    head.save_index(tmp_path / "index.pt")
    other = HashSoftmaxWithLoss(D, N, config=layer.config).eval()
    other.load_state_dict(head.state_dict())
    queries = torch.randn(50, D)
    assert not torch.equal(other.linear.tables.functions, head.linear.tables.functions)
    for loaded in (other, layer):
        loaded.load_index(tmp_path / "index.pt")
        for one, same in zip(head.topk(queries, 5), loaded.topk(queries, 5), strict=True):
            assert torch.equal(one, same)


def test_a_head_refuses_what_its_layer_refuses(tmp_path: Path) -> None:
    layer = layer_of()
    layer.save_index(tmp_path / "index.pt")
    other = HashSoftmaxWithLoss(D, N, config=layer.config)
    with pytest.raises(ValueError, match="it is of other weights"):
        other.load_index(tmp_path / "index.pt")
    dense = HashSoftmaxWithLoss(D, N, config=HashConfig(active=1.0))
    for method in (dense.save_index, dense.load_index):
        with pytest.raises(ValueError, match="the layer has no tables"):
            method(tmp_path / "index.pt")
