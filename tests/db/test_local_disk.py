"""SQLite databases are refused on file systems where they lose data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from db.session import Database
from xray.errors import UsageError

Mount = Callable[..., None]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """Give this process a table of mounts as the kernel writes it: a local root, and what is given."""

    def write(*mounted: tuple[Path, str]) -> None:
        lines = ["/dev/sda1 / ext4 rw 0 0"]
        for at, kind in mounted:
            lines.append(f"server {at} {kind} rw 0 0".replace("group folder", "group\\040folder"))
        (tmp_path / "mounts").write_text("\n".join(lines) + "\n")
        monkeypatch.setattr("db.local_disk.MOUNTS", tmp_path / "mounts")

    return write


@pytest.mark.parametrize(
    "kind", ["nfs4", "cifs", "lustre", "gpfs", "beegfs", "fuse", "fuse.sshfs", "fuse.gcsfuse", "fuse.glusterfs"]
)
def test_a_database_on_a_shared_file_system_is_refused_with_its_name_and_the_way_out(
    tmp_path: Path, mount: Mount, kind: str
) -> None:
    shared = tmp_path / "group folder"
    shared.mkdir()
    mount((shared, kind))
    with pytest.raises(UsageError, match=rf"group folder/home is on .*\({kind}\).*BONESCREEN_HOME to a local disk"):
        Database(f"sqlite:///{shared}/home/bonescreen.db")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs"])
def test_a_database_on_a_local_disk_is_not_refused(tmp_path: Path, mount: Mount, kind: str) -> None:
    mount((tmp_path, kind))
    Database(f"sqlite:///{tmp_path}/bonescreen.db").close()


def test_the_innermost_and_the_last_mount_is_that_of_the_database(tmp_path: Path, mount: Mount) -> None:
    local, link = tmp_path / "shared" / "scratch", tmp_path / "link"
    local.mkdir(parents=True)
    link.symlink_to(local)
    mount((tmp_path / "shared", "lustre"), (local, "xfs"))
    Database(f"sqlite:///{link}/bonescreen.db").close()
    with pytest.raises(UsageError, match="lustre"):
        Database(f"sqlite:///{tmp_path}/shared/bonescreen.db")
    mount((local, "xfs"), (local, "beegfs"))
    with pytest.raises(UsageError, match="beegfs"):
        Database(f"sqlite:///{link}/bonescreen.db")
