"""The quota of a container, read from files as Linux writes them."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.machine import processor
from dovetail_ort_runtime.machine.cpu_quota import cpu_quota

MOUNT = "31 23 0:28 {root} {folder} rw,nosuid,relatime shared:9 - {kind} {kind} {options}\n"


@pytest.fixture
def process(tmp_path):
    """`process(groups, mounts, files)`: a folder as `/proc/self`, and control groups beside it."""

    def write(groups, mounts, files):
        folder = tmp_path / "proc"
        folder.mkdir()
        (folder / "cgroup").write_text("".join(f"{group}\n" for group in groups))
        lines = ["22 1 8:1 / / rw - ext4 /dev/root rw\n"]
        for kind, options, root, name in mounts:
            escaped = str(tmp_path / name).replace(" ", r"\040")
            lines.append(MOUNT.format(root=root, folder=escaped, kind=kind, options=options))
        (folder / "mountinfo").write_text("".join(lines))
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return folder

    return write


V2 = [("cgroup2", "rw,nsdelegate", "/", "cgroup")]
V1 = [("cgroup", "rw,memory", "/", "memory"), ("cgroup", "rw,cpu,cpuacct", "/", "cpu")]


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("/", {"cgroup/cpu.max": "200000 100000"}, 2.0),
        ("/", {"cgroup/cpu.max": "50000 100000"}, 0.5),
        ("/", {"cgroup/cpu.max": "max 100000"}, None),
        ("/", {}, None),
        ("/", {"cgroup/cpu.max": ""}, None),
        ("/", {"cgroup/cpu.max": "many 100000"}, None),
        ("/a/b", {"cgroup/a/b/cpu.max": "300000 100000"}, 3.0),
        ("/a/b", {"cgroup/a/b/cpu.max": "max 100000", "cgroup/a/cpu.max": "150000 100000"}, 1.5),
        ("/a/b", {"cgroup/a/b/cpu.max": "400000 100000", "cgroup/a/cpu.max": "100000 50000"}, 2.0),
        ("/a/b", {"cgroup/a/b/cpu.max": "100000 100000", "cgroup/a/cpu.max": "800000 100000"}, 1.0),
        # The group is outside of what the container sees: its own limits lie at the mount.
        ("/../other", {"cgroup/cpu.max": "200000 100000"}, 2.0),
        ("/not/there", {"cgroup/cpu.max": "200000 100000"}, 2.0),
    ],
)
def test_the_least_quota_of_a_group_and_those_above_counts(process, group, files, quota):
    assert cpu_quota(process([f"0::{group}"], V2, files)) == quota


@pytest.mark.parametrize(
    ("time", "period", "quota"), [("150000", "100000", 1.5), ("-1", "100000", None), ("200000", "50000", 4.0)]
)
def test_the_first_version_says_it_in_two_files(process, time, period, quota):
    files = {"cpu/a/cpu.cfs_quota_us": time, "cpu/a/cpu.cfs_period_us": period}
    assert cpu_quota(process(["5:memory:/b", "4:cpu,cpuacct:/a", "3:cpuset:/c"], V1, files)) == quota


def test_a_group_above_counts_in_the_first_version_too(process):
    files = {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}
    files |= {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}
    assert cpu_quota(process(["4:cpu:/a/b"], V1, files)) == 2.5


def test_a_mount_that_shows_a_part_of_the_hierarchy_is_read_from_there(process):
    mounts = [("cgroup", "rw,cpu", "/docker/1f", "cpu"), ("cgroup2", "rw", "/", "unified")]
    files = {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}
    assert cpu_quota(process(["4:cpu:/docker/1f", "0::/"], mounts, files)) == 1.0


def test_both_versions_at_once_count(process):
    mounts = [*V1, ("cgroup2", "rw", "/", "unified")]
    files = {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000", "unified/cpu.max": "300000 100000"}
    assert cpu_quota(process(["4:cpu:/", "0::/"], mounts, files)) == 3.0


def test_a_space_in_a_path_is_read(process):
    mounts = [("cgroup2", "rw", "/", "control groups")]
    assert cpu_quota(process(["0::/a"], mounts, {"control groups/a/cpu.max": "100000 100000"})) == 1.0


def test_a_system_without_these_files_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (16.0, 8), (8.0, 8), (3.9, 3), (1.0, 1), (0.5, 1)])
def test_a_quota_bounds_the_usable_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(processor, "cpu_quota", lambda: quota)
    monkeypatch.setattr(processor, "physical_cores", lambda: 8)
    assert processor.usable_cores() == cores
