"""Archives cut and joined."""

from __future__ import annotations

import json
import tarfile

import pytest

from benchmarks.gpu.parts import CONTENTS, Received, cut


def archive(folder, name, content):
    source = folder / f"{name}.txt"
    source.write_bytes(content)
    path = folder / f"{name}.tar.xz"
    with tarfile.open(path, "w:xz") as file:
        file.add(source, "content")
    return path


@pytest.fixture
def archives(tmp_path):
    # Bytes that xz cannot make smaller.
    noise = bytes(number * number % 251 ^ number * 7 % 256 for number in range(4000))
    return [archive(tmp_path, "first", noise), archive(tmp_path, "second", noise[::-1] * 2)]


def pieces(part):
    return [path for path in part.iterdir() if path.name != CONTENTS]


def test_every_part_but_the_last_is_full_and_no_part_is_larger(archives, tmp_path):
    parts = cut(archives, tmp_path / "parts", 1000)
    sizes = [sum(path.stat().st_size for path in pieces(part)) for part in parts]
    assert [part.name for part in parts] == [str(number) for number in range(1, len(parts) + 1)]
    assert sizes[:-1] == [1000] * (len(parts) - 1)
    assert sum(sizes) == sum(path.stat().st_size for path in archives)


def test_an_archive_is_unpacked_when_its_last_part_has_come_and_no_sooner(archives, tmp_path):
    parts = cut(archives, tmp_path / "parts", archives[0].stat().st_size)
    received = Received(tmp_path / "received")
    received.take(parts[0])
    assert received.unpack() == ["first"]
    assert received.missing("second")
    for part in parts[1:]:
        received.take(part)
    assert received.unpack() == ["first", "second"]
    for name in ("first", "second"):
        assert (tmp_path / "received" / name / "content").read_bytes() == (tmp_path / f"{name}.txt").read_bytes()


def test_parts_may_come_in_any_order_and_more_than_once(archives, tmp_path):
    parts = cut(archives, tmp_path / "parts", 700)
    received = Received(tmp_path / "received")
    for part in [*parts[::-1], parts[0]]:
        received.take(part)
    assert received.unpack() == received.unpack() == ["first", "second"]


def test_parts_that_were_packed_anew_replace_all_older_ones(archives, tmp_path):
    received = Received(tmp_path / "received")
    for part in cut(archives, tmp_path / "parts", 700):
        received.take(part)
    received.unpack()
    changed = archive(tmp_path, "first", b"changed")
    (part,) = cut([changed], tmp_path / "parts", 10**6)
    received.take(part)
    assert received.unpack() == ["first"]
    assert (tmp_path / "received" / "first" / "content").read_bytes() == b"changed"
    assert not (tmp_path / "received" / "second").exists()


def test_a_damaged_piece_is_found(archives, tmp_path):
    (part,) = cut(archives, tmp_path / "parts", 10**6)
    piece = next(path for path in pieces(part) if path.name == "first.1")
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    received = Received(tmp_path / "received")
    received.take(part)
    with pytest.raises(ValueError, match="checksum"):
        received.unpack()
    assert not (tmp_path / "received" / "first").exists()


def test_the_list_of_contents_names_every_piece(archives, tmp_path):
    parts = cut(archives, tmp_path / "parts", 700)
    contents = json.loads((parts[0] / CONTENTS).read_text())
    named = {f"{name}.{number}" for name, entry in contents.items() for number in range(1, entry["pieces"] + 1)}
    assert named == {path.name for part in parts for path in pieces(part)}
