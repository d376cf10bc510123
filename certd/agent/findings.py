"""What of a configuration this machine does not fit: files, users, programs. Beyond what reading it finds."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from certd.agent.checks import read_roots
from certd.agent.config import Certificate, Command, Config, File, Sds
from certd.agent.deployment import CURRENT, group_id, user_id
from certd.agent.errors import AgentError
from certd.agent.formats import passphrase
from certd.errors import CertdError, Violation
from certd.pki.pkcs12 import check_passphrase

_TRAVERSE: Final = 0o001


def findings(config: Config) -> list[Violation]:
    """Returns everything, by key path."""
    found: list[Violation] = []
    if config.sds is not None:
        found.extend(Violation(f"sds.{each.field}", each.description) for each in _of_accounts(config.sds))
    for place, certificate in enumerate(config.certificates):
        found.extend(
            Violation(f"certificate.{place}.{each.field}", each.description) for each in _of_certificate(certificate)
        )
    return found


def _of_certificate(certificate: Certificate) -> Iterator[Violation]:
    for key, command in (("check", certificate.check), ("reload", certificate.reload)):
        if command is not None:
            yield from _of_command(key, command)
    if not certificate.files and certificate.haproxy is None and not certificate.sds:
        yield Violation("file", "nothing would be written: add a [[certificate.file]]")
    if certificate.haproxy is not None and not any(each.format == "combined" for each in certificate.files):
        yield Violation(
            "haproxy", "at its next start HAProxy reads a file that nobody writes: add one of format combined"
        )
    if certificate.trust_roots is not None:
        try:
            read_roots(certificate.trust_roots)
        except AgentError as error:
            yield Violation("trust_roots", error.message)
    yield from _of_directory(certificate)
    for place, file in enumerate(certificate.files):
        for each in _of_file(file, certificate.directory):
            yield Violation(f"file.{place}.{each.field}", each.description)


def _of_command(key: str, command: Command) -> Iterator[Violation]:
    if command.arguments and shutil.which(command.arguments[0]) is None:
        yield Violation(key, f"{command.arguments[0]} is no program that can be run here; write its full path")


def _of_directory(certificate: Certificate) -> Iterator[Violation]:
    current = certificate.directory / CURRENT
    if current.exists() and not current.is_symlink():
        yield Violation("directory", f"{current} is no symbolic link, which the agent makes of it; move it away")
    there = next((each for each in (certificate.directory, *certificate.directory.parents) if each.exists()), None)
    if there is not None and certificate.files and not os.access(there, os.W_OK | os.X_OK):
        yield Violation("directory", f"{there} cannot be written by this user")


def _of_accounts(given: File | Sds) -> Iterator[Violation]:
    for key, name, number in (("owner", given.owner, user_id), ("group", given.group, group_id)):
        if name is not None:
            try:
                number(name)
            except AgentError as error:
                yield Violation(key, error.message)


def _of_file(file: File, directory: Path) -> Iterator[Violation]:
    yield from _of_accounts(file)
    # Another user needs the way there, too; the state directory is open to the agent alone.
    if file.owner is not None or file.group is not None:
        closed = next((each for each in directory.parents if _is_closed(each)), None)
        if closed is not None:
            yield Violation(
                "owner" if file.owner is not None else "group", f"cannot get through {closed}; {_ELSEWHERE}"
            )
    if file.passphrase_file is not None:
        try:
            check_passphrase(passphrase(file.passphrase_file), "passphrase")
        except (AgentError, CertdError) as error:
            yield Violation("passphrase_file", error.message)


_ELSEWHERE: Final = "name another directory for this certificate"


def _is_closed(folder: Path) -> bool:
    try:
        return not folder.stat().st_mode & _TRAVERSE
    except OSError:
        return False
