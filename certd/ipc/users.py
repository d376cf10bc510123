"""Root works as the user to whom something belongs, so that it leaves no files that this user cannot read."""

import os
import pwd
from pathlib import Path


def become_owner_of(path: Path) -> None:
    """Becomes, for good, the user of a file, should this process be root's and the file another's."""
    if os.geteuid() != 0:
        return
    try:
        status = path.stat()
    except OSError:
        # Whoever opens it says so.
        return
    if status.st_uid == 0:
        return
    try:
        known = pwd.getpwuid(status.st_uid)
        group, groups = known.pw_gid, os.getgrouplist(known.pw_name, known.pw_gid)
    except KeyError:
        # A user without a name has no groups but that of its files.
        group, groups = status.st_gid, []
    os.setgroups(groups)
    os.setresgid(group, group, group)
    os.setresuid(status.st_uid, status.st_uid, status.st_uid)
