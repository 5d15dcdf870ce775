from pathlib import Path

import pytest

from nosbench_env.store import filesystems
from nosbench_env.store.filesystems import network_file_system

MOUNTS = r"""22 1 8:1 / / rw,relatime - ext4 /dev/root rw
23 22 0:5 / /proc rw - proc proc rw
30 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/local rw - xfs /dev/sdb rw
32 22 0:41 / /mnt/my\040share rw - cifs //server/share rw
33 22 0:42 / /data rw - ext4 /dev/sdc rw
34 22 0:43 / /data rw - fuse.sshfs host: rw
broken line
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    monkeypatch.setattr(filesystems, "_MOUNTS", table)
    return table


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/home/somebody/results.sqlite", "nfs4"),
        ("/home", "nfs4"),
        ("/homestead/results.sqlite", None),
        ("/home/local/results.sqlite", None),
        ("/mnt/my share/results.sqlite", "cifs"),
        ("/data/results.sqlite", "fuse.sshfs"),
        ("/tmp/results.sqlite", None),
    ],
)
def test_network_file_systems_are_known_by_their_mounts(mounts: Path, place: str, kind: str | None) -> None:
    assert network_file_system(Path(place)) == kind


def test_where_there_is_no_table_of_mounts_nothing_is_refused(mounts: Path) -> None:
    mounts.unlink()
    assert network_file_system(Path("/home/somebody")) is None


def test_a_link_is_followed_to_its_file_system(mounts: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/home/somebody")
    assert network_file_system(tmp_path / "link" / "s.sqlite") == "nfs4"
