"""Which file system a path lies on: SQLite's locks can't be relied on where several machines share it."""

from __future__ import annotations

import os
import re
from pathlib import Path

# As Linux names them in its table of mounts. Not here: 9p and virtiofs, which mostly join a guest to its one host.
NETWORK_FILE_SYSTEMS = {
    *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"),
    *("fuse.ceph", "fuse.cephfs", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs"),
    *("fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs"),
}
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path) -> str | None:
    """The kind of network file system that a path lies on or would lie on; None if on none, or if nobody can tell."""
    try:
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:  # not Linux
        return None
    place = os.path.realpath(path)
    longest, kind = "", ""
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])  # a space stands as \040
        below = place == mount or place.startswith(mount.rstrip("/") + "/")
        if below and len(mount) >= len(longest):  # of several mounts on one place, the last counts
            longest, kind = mount, after.split(" ")[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None
