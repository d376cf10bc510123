"""Options that say where relying parties learn what an authority has revoked, and how that is shown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from certd.cli.certctl.durations import format_duration
from certd.cli.certctl.parameters import DURATION
from certd.client.messages import duration, enum_text
from certd.v1.authority_pb2 import Authority

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SERVER: Final = "server"
"""In place of a URL: this server's own."""
_FIELD: Final = "revocation"
_URL: Final = "URL"


def revocation_options(command: CommandT) -> CommandT:
    """Adds the options; their values come as keyword arguments, None or empty where nothing is said."""
    for option in (
        click.option("--crl/--no-crl", default=None, help="Whether CRLs are signed and new certificates name one."),
        click.option("--crl-lifetime", type=DURATION, help="How long a CRL holds, 1h to 366d.  [default: 7d]"),
        click.option(
            "--crl-partitions",
            type=click.IntRange(0, 4096),
            metavar="N",
            help="Spread new certificates over so many CRLs, 2 to 4096; 0: all stand on the complete one.",
        ),
        click.option(
            "--crl-url",
            "crl_urls",
            metavar=_URL,
            multiple=True,
            help="http:// URL of a host that serves the CRLs in place of this server; may be repeated. "
            f"{SERVER}: this server's own.",
        ),
        click.option(
            "--crl-extension/--no-crl-extension",
            default=None,
            help="Whether new certificates name the CRL that there is.",
        ),
        click.option(
            "--ocsp/--no-ocsp", default=None, help="Whether OCSP is answered and new certificates name the responder."
        ),
        click.option("--ocsp-lifetime", type=DURATION, help="How long an answer holds, 1h to 30d.  [default: 2d]"),
        click.option(
            "--ocsp-url",
            "ocsp_urls",
            metavar=_URL,
            multiple=True,
            help="http:// URL of a host that forwards OCSP requests to this server; may be repeated. "
            f"{SERVER}: this server's own.",
        ),
        click.option(
            "--ocsp-extension/--no-ocsp-extension",
            default=None,
            help="Whether new certificates name the responder that there is.",
        ),
        click.option(
            "--issuer-url",
            "issuer_urls",
            metavar=_URL,
            multiple=True,
            help="http:// URL of a host that serves its certificate in place of this server; may be repeated. "
            f"{SERVER}: this server's own.",
        ),
        click.option(
            "--issuer-extension/--no-issuer-extension",
            default=None,
            help="Whether new certificates say where their issuer's is.",
        ),
    ):
        command = option(command)
    return command


def settings_of(options: Mapping[str, Any]) -> tuple[Authority.RevocationSettings, list[str]]:
    """Returns what the options say, and the paths of a mask for which they say something."""
    said = list(_said(options))
    settings = Authority.RevocationSettings()
    for path, value in said:
        message: Any = settings
        *parts, leaf = path.split(".")
        for part in parts:
            message = getattr(message, part)
        if isinstance(value, Sequence):
            getattr(message, leaf).extend(value)
        elif leaf == "lifetime":
            message.lifetime.CopyFrom(duration(value))
        else:
            setattr(message, leaf, value)
    return settings, [f"{_FIELD}.{path}" for path, _ in said]


def _said(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for kind in ("crl", "ocsp"):
        if options[kind] is not None:
            yield f"{kind}.enabled", options[kind]
        if options[f"{kind}_lifetime"] is not None:
            yield f"{kind}.lifetime", options[f"{kind}_lifetime"]
        if options[f"{kind}_urls"]:
            yield f"{kind}.base_urls", _urls(options[f"{kind}_urls"], f"--{kind}-url")
        if options[f"{kind}_extension"] is not None:
            yield f"{kind}.omit_extension", not options[f"{kind}_extension"]
    partitions = options["crl_partitions"]
    if partitions is not None:
        yield "crl.partitioned", partitions > 0
        if partitions:
            yield "crl.partition_count", partitions
    if options["issuer_urls"]:
        yield "issuer_base_urls", _urls(options["issuer_urls"], "--issuer-url")
    if options["issuer_extension"] is not None:
        yield "omit_issuer_url", not options["issuer_extension"]


def _urls(given: Sequence[str], option: str) -> Sequence[str]:
    if SERVER not in given:
        return given
    if len(given) > 1:
        message = f"{option} {SERVER} stands for this server's own URL, and so alone"
        raise click.UsageError(message)
    return ()


def revocation_rows(item: Authority) -> list[tuple[str, str]]:
    """Returns the settings of an authority for a card."""
    settings = item.revocation
    if not settings.ByteSize():
        return []
    usage = enum_text(item, "usage_mode").lower().replace("_", "-") if item.usage_mode else ""
    if item.usage_mode == Authority.SHORT_LIVED:
        usage += ": at most 7 days, and nobody asks whether they are revoked"
    return [
        ("Usage", usage),
        ("CRL", _crl_text(settings.crl)),
        ("OCSP", _ocsp_text(settings.ocsp)),
        (
            "Issuer URL",
            "not in new certificates" if settings.omit_issuer_url else "\n".join(settings.issuer_base_urls),
        ),
    ]


def _crl_text(crl: Authority.RevocationSettings.Crl) -> str:
    if not crl.enabled:
        return "none"
    lines = [f"holds for {format_duration(crl.lifetime.ToTimedelta())}"]
    if crl.partitioned:
        lines[0] += f", {crl.partition_count} partitions"
    return _with_urls(lines, crl)


def _ocsp_text(ocsp: Authority.RevocationSettings.Ocsp) -> str:
    if not ocsp.enabled:
        return "none"
    return _with_urls([f"answers hold for {format_duration(ocsp.lifetime.ToTimedelta())}"], ocsp)


def _with_urls(lines: list[str], part: Authority.RevocationSettings.Crl | Authority.RevocationSettings.Ocsp) -> str:
    if part.omit_extension:
        lines[0] += ", not named by new certificates"
    return "\n".join([*lines, *(f"at {url}" for url in part.base_urls)])
