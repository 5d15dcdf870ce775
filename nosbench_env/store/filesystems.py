"""Detection of network file systems, where SQLite's locks are unreliable."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Names in Linux's table of mounts. 9p and virtiofs are left out: they mostly connect a guest to its own host.
NETWORK_FILE_SYSTEMS = {
    *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"),
    *("fuse.ceph", "fuse.cephfs", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs"),
    *("fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs"),
}
_MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(path: Path) -> str | None:
    """Returns the kind of a path's network file system.

    The path need not exist. None means a local file system, or a machine without a table of mounts.
    """
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
        if below and len(mount) >= len(longest):  # the last of several mounts on one place counts
            longest, kind = mount, after.split(" ")[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None
