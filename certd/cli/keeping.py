"""The commands of `certd` by which a server is kept: looked over, copied, put back."""

from typing import Final

import click

from certd.cli.backup import backup
from certd.cli.doctor import doctor
from certd.cli.recover_wrapping_key import recover_wrapping_keys
from certd.cli.restore import restore

KEEPING: Final[tuple[click.Command, ...]] = (doctor, backup, restore, recover_wrapping_keys)
