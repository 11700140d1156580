"""How a picture gets into a file. It knows no content of a picture."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from dovetail_ort_export.writing.bundle_output import write_whole


def write_figure(figure: Figure, path: Path) -> None:
    """Write a picture as a PNG. On an error, such as a full disk, a file that was there before stays as it was.

    Args:
        figure: the picture.
        path: path of the PNG.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_whole(path, buffer.getbuffer())
