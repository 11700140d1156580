"""Archives that are cut into parts of a given size and joined again; standard library only."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONTENTS: Final = "contents.json"


def cut(archives: Sequence[Path], folder: Path, size: int) -> list[Path]:
    """Write archives, one after the other, into parts `folder/1`, `folder/2` and so on, whose pieces have `size` bytes.

    Every part has a list of all archives and their checksums beside its pieces. A piece is named after its archive and
    its number, `runtime.2`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    part = folder / "1"
    room = size
    contents = {}
    for archive in archives:
        data = archive.read_bytes()
        name = archive.name.partition(".")[0]
        start = 0
        number = 0
        while start < len(data):
            if room == 0:
                part = folder / str(int(part.name) + 1)
                room = size
            number += 1
            part.mkdir(parents=True, exist_ok=True)
            piece = data[start : start + room]
            (part / f"{name}.{number}").write_bytes(piece)
            start += len(piece)
            room -= len(piece)
        contents[name] = {"pieces": number, "sha256": hashlib.sha256(data).hexdigest()}
    parts = sorted(folder.iterdir(), key=lambda path: int(path.name))
    for path in parts:
        (path / CONTENTS).write_text(json.dumps(contents, indent=1))
    return parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """An archive that is joined from its pieces.

    Attributes:
        name: name without suffix.
        num_pieces: number of pieces that it was cut into.
        sha256: checksum of the whole archive.
    """

    name: str
    num_pieces: int
    sha256: str


class Received:
    """The parts that have come so far.

    Args:
        folder: folder for the pieces and for what is unpacked, `folder/NAME`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pieces = folder / "pieces"

    def take(self, part: Path) -> None:
        """Keep the pieces of a part; if the archives were packed anew, all older pieces are dropped.

        Raises:
            FileNotFoundError: the folder is no part.
        """
        self._pieces.mkdir(parents=True, exist_ok=True)
        contents = self._pieces / CONTENTS
        text = (part / CONTENTS).read_text()
        if contents.exists() and contents.read_text() != text:
            shutil.rmtree(self._folder)
            self._pieces.mkdir(parents=True)
        for path in part.iterdir():
            shutil.copy2(path, self._pieces)

    def unpack(self) -> list[str]:
        """Join and unpack the archives that are complete; return the names of all unpacked archives.

        Raises:
            ValueError: a joined archive is not what was packed.
        """
        found = []
        for archive in self._archives():
            if not (self._folder / archive.name).exists() and not self.missing(archive.name):
                self._unpack(archive)
            if (self._folder / archive.name).exists():
                found.append(archive.name)
        return found

    def missing(self, name: str) -> list[int]:
        """Numbers of an archive's pieces that have not come."""
        archive = next(archive for archive in self._archives() if archive.name == name)
        numbers = range(1, archive.num_pieces + 1)
        return [number for number in numbers if not (self._pieces / f"{name}.{number}").exists()]

    def _archives(self) -> list[Archive]:
        contents = json.loads((self._pieces / CONTENTS).read_text())
        return [
            Archive(name=name, num_pieces=entry["pieces"], sha256=entry["sha256"]) for name, entry in contents.items()
        ]

    def _unpack(self, archive: Archive) -> None:
        joined = self._folder / f"{archive.name}.tar.xz"
        digest = hashlib.sha256()
        with joined.open("wb") as file:
            for number in range(1, archive.num_pieces + 1):
                data = (self._pieces / f"{archive.name}.{number}").read_bytes()
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != archive.sha256:
            raise ValueError(
                f"The archive {archive.name} has another checksum than when it was packed; send its parts again."
            )
        partial = self._folder / f"{archive.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(joined) as file:
            file.extractall(partial, filter="data")
        partial.rename(self._folder / archive.name)
        joined.unlink()
