"""Where the cache is, and how progress is shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hashdl.data import cache_dir
from hashdl.progress import track


def test_environment_variable_chooses_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HASHDL_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_default_cache(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HASHDL_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_dir().name == "hashdl"


def test_linux_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HASHDL_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "hashdl"


def test_track_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2, 3], "Counting")) == [1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Counting ..."
    assert lines[1].startswith("Counting: 3 in ")
    assert len(lines) == 2


def test_track_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("ab"), "Counting", enabled=False)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_track_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(track(iter(range(3)), "Counting", total=3)) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err


def test_track_without_rich(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert list(track([1], "Counting")) == [1]
    assert capsys.readouterr().err.startswith("Counting ...")
