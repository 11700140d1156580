"""Pictures in files."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from dovetail_ort_export.writing.figures import write_figure

PNG = b"\x89PNG"


def test_a_picture_replaces_the_file_that_was_there(tmp_path):
    path = tmp_path / "curves.png"
    path.write_bytes(b"older")
    write_figure(Figure(), path)
    assert path.read_bytes().startswith(PNG)


def test_a_picture_that_cannot_be_drawn_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"older")
    figure = Figure()
    monkeypatch.setattr(figure, "savefig", lambda *_args, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_figure(figure, path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("curves.png", b"older")]
