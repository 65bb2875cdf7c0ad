"""The CPUs that a process may use: its affinity, and the quotas of its control groups."""

import os
from pathlib import Path

import pytest

from xray.cpus import usable_cpus


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1)]
)
def test_a_quota_of_control_groups_version_2_limits_the_cpus(
    tmp_path: Path, eight_cpus: None, quota: str, cpus: int
) -> None:
    write(tmp_path / "own", "0::/system.slice/docker-1.scope\n")
    write(tmp_path / "cgroup/system.slice/docker-1.scope/cpu.max", quota)
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "own") == cpus


def test_the_smallest_quota_of_a_group_and_those_above_it_holds(tmp_path: Path, eight_cpus: None) -> None:
    write(tmp_path / "own", "0::/pod/container\n")
    write(tmp_path / "cgroup/pod/cpu.max", "300000 100000")
    write(tmp_path / "cgroup/pod/container/cpu.max", "400000 100000")
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "own") == 3


def test_in_a_container_the_group_may_be_mounted_as_the_root(tmp_path: Path, eight_cpus: None) -> None:
    write(tmp_path / "own", "0::/docker/0123456789\n")
    write(tmp_path / "cgroup/cpu.max", "200000 100000")
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "own") == 2


def test_a_quota_of_control_groups_version_1_limits_the_cpus(tmp_path: Path, eight_cpus: None) -> None:
    write(tmp_path / "own", "4:memory:/a\n3:cpu,cpuacct:/docker/1\n")
    write(tmp_path / "cgroup/cpu/docker/1/cpu.cfs_quota_us", "250000\n")
    write(tmp_path / "cgroup/cpu/docker/1/cpu.cfs_period_us", "100000\n")
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "own") == 3


def test_without_control_groups_the_affinity_counts(tmp_path: Path, eight_cpus: None) -> None:
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "own") == 8


def test_an_affinity_smaller_than_the_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    write(tmp_path / "own", "0::/\n")
    write(tmp_path / "cgroup/cpu.max", "400000 100000")
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "own") == 1
