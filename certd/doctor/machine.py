"""Looks at files, disks, limits and the clock of the machine."""

import contextlib
import resource
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from certd.backup import files
from certd.config import Config, token_settings
from certd.doctor.findings import Finding, error, info, warning
from certd.errors import CertdError
from certd.services import backup_notes
from certd.store import dialect

_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_SECRET_FILES: Final = ("token.pin_file", files.OFFICER_PIN, "tls.private_key", "notify.smtp.password_file")
_LEAST_FREE: Final = 256 << 20
_LITTLE_FREE: Final = 2 << 30
_SMALL_SHARE: Final = 0.05
_FILES_BESIDE: Final = 2048
_SKEW: Final = timedelta(minutes=2)
_OLD_BACKUP: Final = timedelta(days=7)
_SERVER_CERTIFICATE_LEFT: Final = 0.25
"""A third is when the daemon renews it; below this it does not manage to."""
_SERVER_CERTIFICATE_DAYS: Final = timedelta(days=7)


def look(settings: Config, config_file: Path, now: datetime) -> Iterator[Finding]:
    """Yields what is to be said of the machine."""
    yield from _secret_files(settings)
    yield from _configuration(config_file)
    yield from _isolation(settings)
    yield from _disks(settings)
    yield from _open_files(settings)
    yield from _clock(settings, now)
    yield from _server_certificate(settings, now)


def _secret_files(settings: Config) -> Iterator[Finding]:
    found = files.files_of(settings)
    secret: dict[str, Path] = {key: found[key] for key in _SECRET_FILES if key in found}
    folders = {
        "token.softhsm_conf": None if settings.token.softhsm_conf is None else settings.token.softhsm_conf.parent
    }
    folders["token.journal"] = token_settings(settings).journal
    url = dialect.parse_url(settings.database.url)
    if dialect.engine_name(url) == dialect.SQLITE:
        secret["database.url"] = dialect.sqlite_file(url)
    for key, path in {**secret, **{key: path for key, path in folders.items() if path is not None}}.items():
        mode = _mode(path)
        if mode is not None and mode & _OPEN_TO_OTHERS:
            right = "700" if path.is_dir() else "600"
            yield error(
                "secret-files",
                f"{key}: {path} has mode {mode:04o}",
                why="other users of the machine can read or change it",
                remedy=f"chmod {right} {path}; if others could read it, change the secret as well",
            )


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        # Not there, or another user's, who keeps it from this one.
        return None


def _configuration(config_file: Path) -> Iterator[Finding]:
    for path in (config_file, config_file.absolute().parent):
        mode = _mode(path)
        if mode is not None and mode & _WRITABLE_BY_OTHERS and not mode & stat.S_ISVTX:
            yield error(
                "configuration",
                f"{path} has mode {mode:04o}",
                why="others than its owner can make certd use another database, token or recovery key",
                remedy=f"chmod go-w {path}",
            )


def _isolation(settings: Config) -> Iterator[Finding]:
    if settings.token.socket is None:
        yield warning(
            "isolation",
            "SAME_USER: the daemon starts the token process itself, under its own user",
            why="whoever takes over the daemon can read the PIN, and use every key without its policy",
            remedy='give the token process a user of its own: README, "Two users"',
        )


def _disks(settings: Config) -> Iterator[Finding]:
    folders = {settings.tls.certificate.parent, token_settings(settings).journal}
    url = dialect.parse_url(settings.database.url)
    if dialect.engine_name(url) == dialect.SQLITE:
        folders.add(dialect.sqlite_file(url).parent)
    if settings.token.softhsm_conf is not None:
        folders.add(settings.token.softhsm_conf.parent)
    seen: set[int] = set()
    for folder in sorted(folders):
        with contextlib.suppress(OSError):
            device = folder.stat().st_dev
            if device in seen:
                continue
            seen.add(device)
            usage = shutil.disk_usage(folder)
            said = f"{usage.free >> 20} MiB of {usage.total >> 20} MiB are free where {folder} lies"
            why = "certd signs nothing that it cannot write down: without room it stands still"
            remedy = "make room, or enlarge the disk"
            if usage.free < _LEAST_FREE:
                yield error("disk", said, why=why, remedy=remedy)
            elif usage.free < min(_LITTLE_FREE, int(usage.total * _SMALL_SHARE)):
                yield warning("disk", said, why=why, remedy=remedy)


def _open_files(settings: Config) -> Iterator[Finding]:
    needed = 2 * settings.limits.maximum_connections + _FILES_BESIDE
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        yield warning(
            "open-files",
            f"a process may open {hard} files here, and maximum_connections wants {needed}",
            why="under load, connections are refused before the limit that certd.toml sets",
            remedy="raise LimitNOFILE of the unit (install-units sets 65536), or lower [limits] maximum_connections",
        )


def _clock(settings: Config, now: datetime) -> Iterator[Finding]:
    """Compares the clock with the times of files, which a clock of before wrote."""
    paths = [settings.tls.certificate]
    url = dialect.parse_url(settings.database.url)
    if dialect.engine_name(url) == dialect.SQLITE:
        file = dialect.sqlite_file(url)
        paths += [file, file.with_name(f"{file.name}-wal")]
    for path in paths:
        with contextlib.suppress(OSError):
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if written > now + _SKEW:
                yield clock_finding(f"{path} was written at {written.isoformat()}", now)
                return


def clock_finding(what: str, now: datetime) -> Finding:
    """Returns the finding that the clock is behind something that has happened."""
    return error(
        "clock",
        f"the clock says {now.isoformat(timespec='seconds')}, and {what}",
        why="certificates, CRLs and OCSP answers get times of this clock; readers refuse those of the future, and "
        "believe revocations late",
        remedy="set the clock, and have it kept by NTP (chronyd, systemd-timesyncd)",
    )


def _server_certificate(settings: Config, now: datetime) -> Iterator[Finding]:
    path = settings.tls.certificate
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError, IndexError) as failure:
        yield error(
            "server-certificate",
            f"{path} cannot be read: {failure}",
            why="the daemon does not start without it",
            remedy="stop the daemon and run certd init, which makes it",
        )
        return
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin > now + _SKEW:
        yield clock_finding(f"the server's certificate begins at {begin.isoformat()}", now)
    left, said = end - now, f"the server's certificate {path} ends {end.isoformat()}"
    why = "callers and consumers refuse the server after that"
    remedy = (
        "the daemon renews it when a third is left: see its log for why not; certd init, with the daemon stopped, does "
        "so as well"
    )
    if left < min(_SERVER_CERTIFICATE_DAYS, (end - begin) / 10):
        yield error("server-certificate", said, why=why, remedy=remedy)
    elif left < (end - begin) * _SERVER_CERTIFICATE_LEFT:
        yield warning("server-certificate", said, why=why, remedy=remedy)


def backups(settings: Config, recorded: datetime | None, now: datetime) -> Iterator[Finding]:
    """Yields what is to be said of backups; `recorded` is when the books know of the last one."""
    note = backup_notes.last(settings.tls.certificate.parent)
    times = [time for time in (recorded, None if note is None else note.time) if time is not None]
    why = "what is issued and sealed since is lost with the disk"
    remedy = "certd backup FILE --recovery-public-key recovery.pem, from a timer; keep FILE on another machine"
    if not times:
        yield warning("backup", "there is no backup that certd made", why=why, remedy=remedy)
    elif now - max(times) > _OLD_BACKUP:
        days = (now - max(times)).days
        yield warning("backup", f"the last backup is {days} days old", why=why, remedy=remedy)
    if note is not None and not note.has_token:
        yield info(
            "backup",
            "backups do not hold the keys of the token, for it is none of SoftHSM",
            why="a backup alone restores no authority",
            remedy="back the token up with its own tool, after each backup",
        )


def unset_base_url(settings: Config, authorities: list[str]) -> Iterator[Finding]:
    """Yields that authorities publish CRLs or OCSP answers which no certificate names."""
    if settings.web.base_url is None and authorities:
        yield warning(
            "base-url",
            f"[web] base_url is not set, and {len(authorities)} authorities publish CRLs or OCSP answers, such as "
            f"{authorities[0]}",
            why="new certificates do not say where: relying parties take revoked ones for good",
            remedy='set [web] base_url in certd.toml, as base_url = "http://pki.example.internal", or base URLs of the '
            "authority",
        )


def unusable_books(failure: CertdError) -> Finding:
    """Returns the finding that the books cannot be read."""
    return error(
        "database",
        failure.message,
        why="the daemon does not start, or stands still; nothing of the books was looked at",
        remedy="see what it says; a damaged database is restored: certd restore",
    )
