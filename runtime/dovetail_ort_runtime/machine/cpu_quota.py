"""Processor time that Linux gives to a container, read from its control groups. It knows no threads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

_PROCESS: Final = Path("/proc/self")
_VERSION_1: Final = "cgroup"
_VERSION_2: Final = "cgroup2"


class _Mount(NamedTuple):
    """Where a hierarchy of control groups can be read.

    Attributes:
        version: type of the file system, `cgroup` or `cgroup2`.
        root: group whose files lie in `folder`.
        folder: folder of the mount.
    """

    version: str
    root: PurePosixPath
    folder: Path


def cpu_quota(process: Path = _PROCESS) -> float | None:
    """Number of processors whose time this process may use: the lowest limit of its control group and of those above.

    The formats are those of https://docs.kernel.org/admin-guide/cgroup-v2.html and of version 1's `sched-bwc.rst`.

    Args:
        process: folder of the process in `/proc`, with the files `cgroup` and `mountinfo`.

    Returns:
        None where nothing limits it.
    """
    try:
        groups = (process / "cgroup").read_text(encoding="utf-8", errors="surrogateescape")
        mounts = (process / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # another system than Linux
        return None
    own = _own_groups(groups)
    folders = [
        (mount.version, folder)
        for mount in _mounts(mounts)
        if mount.version in own
        for folder in _folders(mount, own[mount.version])
    ]
    quotas = [_quota(version, folder) for version, folder in folders]
    return min((quota for quota in quotas if quota is not None), default=None)


def _own_groups(text: str) -> dict[str, PurePosixPath]:
    """Group of this process by version. A line is hierarchy, controllers and group: `0::/a` or `4:cpu,cpuacct:/a`."""
    found = {}
    for line in text.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if hierarchy == "0" and not controllers:
            found[_VERSION_2] = PurePosixPath(group)
        elif "cpu" in controllers.split(","):
            found[_VERSION_1] = PurePosixPath(group)
    return found


def _mounts(text: str) -> Iterator[_Mount]:
    """Mounts with the controller of processors (`man 5 proc_pid_mountinfo`)."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        places = before.split(" ")
        kind = after.split(" ")
        has_cpu = kind[0] == _VERSION_2 or (kind[0] == _VERSION_1 and "cpu" in kind[-1].split(","))
        if has_cpu and len(places) > 4:
            yield _Mount(version=kind[0], root=PurePosixPath(_plain(places[3])), folder=Path(_plain(places[4])))


def _plain(field: str) -> str:
    r"""A path without its escapes: `\040` is a space."""
    return re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), field)


def _folders(mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    """Folder of the group, and those of the groups above as far as they are mounted."""
    inside = group.is_relative_to(mount.root) and ".." not in group.parts
    folder = mount.folder / group.relative_to(mount.root) if inside else mount.folder
    yield folder
    while folder != mount.folder:
        folder = folder.parent
        yield folder


def _quota(version: str, folder: Path) -> float | None:
    """Number of processors of one group: its time in each period over the period; None without a limit."""
    with suppress(OSError, ValueError):
        if version == _VERSION_2:
            time, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            time = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        if time != "max" and int(time) > 0 and int(period) > 0:
            return int(time) / int(period)
    return None
