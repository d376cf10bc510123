"""Looks into the token, through the token process: which keys it has, and whether they open what is sealed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from certd.children import token_client
from certd.config import Config
from certd.doctor.findings import Finding, error, info, warning
from certd.errors import CertdError
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.services.sealed_contexts import key_context, secret_context
from certd.store import sealed_under, tenants, token_keys, wrapping_keys
from certd.store.reader import Reader
from certd.store.sealed_under import Blob, SecretBlob
from certd.store.token_keys import KeyUse
from certd.token.client import Isolation, ResealItem, TokenClient

_SECONDS: Final = 60.0
_SAMPLE: Final = 20
"""Of what is sealed under each wrapping key."""
_PAGE: Final = 100
_TOLD: Final = 5
_OF_CERTD: Final = ("certd authority policy sha256:", "certd wrapping key")
"""What the labels of keys of certd begin with."""

Progress = Callable[[str, int, int], None]


def look(settings: Config, reader: Reader, *, everything: bool, progress: Progress) -> Iterator[Finding]:
    """Yields what is to be said of the token; with `everything` all that is sealed is opened. Raises STORE_UNAVAILABLE.

    Where the daemon starts its token process itself, this is another one beside it.
    """
    client = token_client(settings)
    try:
        if not client.wait_settled(_SECONDS):
            yield error(
                "token",
                f"the token cannot be used: {client.problem or 'the token process does not answer'}",
                why="nothing is signed or opened without it; nothing of it was looked at",
                remedy="see [token] of certd.toml and its log; run doctor as a user whom the token process answers",
            )
            return
        yield from _look(client, settings, reader, everything=everything, progress=progress)
    except CertdError as failure:
        yield error(
            "token",
            f"the token failed while it was looked at: {failure.message}",
            why="nothing is signed or opened without it",
            remedy="see the log of the token process",
        )
    finally:
        client.stop()


def _look(
    client: TokenClient, settings: Config, reader: Reader, *, everything: bool, progress: Progress
) -> Iterator[Finding]:
    if settings.token.socket is not None and client.isolation() is Isolation.SAME_USER:
        yield info(
            "isolation",
            "doctor runs under the user of the token process",
            why="whether the daemon has another one cannot be told from here",
            remedy="run doctor as the daemon's user",
        )
    for sentence in client.describe().missing:
        yield warning("token", sentence, why="what needs it is refused", remedy="another token, or a newer module")
    present = {one.key_id: one for one in client.list_keys()}
    with reader.read("doctor.keys") as tx:
        named = token_keys.named(tx)
        found = [key for key in _wrapping_keys_of(reader) if key.state is not WrappingKeyState.DESTROYED]
    # The bad ones together, for they have one remedy.
    for one in sorted(named, key=lambda one: not one.needed):
        if one.made and one.key_id not in present and (one.needed or one.use is not KeyUse.WRAPPING):
            yield (error if one.needed else warning)(
                "missing-keys",
                f"the token lacks the {one.use} {one.key_id.hex()}: {one.name}",
                why="what it signs or opens is out of reach",
                remedy="restore the token from its backup; a wrapping key in escrow: certd recover-wrapping-key",
            )
    known = {one.key_id for one in named}
    orphans = [one for one in present.values() if one.key_id not in known and one.label.startswith(_OF_CERTD)]
    if orphans:
        listed = ", ".join(one.key_id.hex() for one in orphans[:_TOLD])
        yield info(
            "orphaned-keys",
            f"the token has {len(orphans)} keys of certd that the database does not name: {listed}",
            why="they were made for what never came to be, or by another database; they sign what their policy allows",
            remedy="if no other server uses this token, destroy them with the token's own tool",
        )
    for number, key in enumerate(found):
        if key.key_id in present:
            yield from _sealed(client, reader, key, everything=everything)
        progress("sealed keys", number + 1, len(found))


def _wrapping_keys_of(reader: Reader) -> list[WrappingKey]:
    with reader.read("doctor.wrapping-keys") as tx:
        rows = [(one.tenant, one.number) for one in wrapping_keys.escrows(tx)]
        found = [wrapping_keys.get(tx, tenant, number) for tenant, number in rows]
    return [key for key in found if key is not None]


@dataclass(slots=True)
class _Opened:
    """What came of opening what is sealed under a key."""

    tried: int = 0
    failed: int = 0
    first: str = ""


def _sealed(client: TokenClient, reader: Reader, key: WrappingKey, *, everything: bool) -> Iterator[Finding]:
    opened = _Opened()
    after: Blob | None = None
    with reader.read("doctor.tenant") as tx:
        tenant = tenants.get(tx, key.tenant)
    while tenant is not None:
        with reader.read("doctor.sealed") as tx:
            page = sealed_under.page(tx, key, after, _PAGE if everything else _SAMPLE)
        if not page:
            break
        after = page[-1]
        for one, failure in zip(page, _failures(client, page, key, tenant.uid), strict=True):
            opened.tried += 1
            if failure:
                opened.failed += 1
                opened.first = opened.first or f"{one.name}: {failure}"
        if not everything and opened.tried >= _SAMPLE:
            break
    if opened.failed:
        yield error(
            "sealed-keys",
            f"{opened.failed} of {opened.tried} keys and secrets under {key.name} do not open, such as {opened.first}",
            why="they can be neither exported nor leased nor used",
            remedy="their rows were changed, or the key in the token is another: restore the backup that has both",
        )


def _failures(client: TokenClient, blobs: Sequence[Blob], key: WrappingKey, tenant_uid: str) -> Iterator[str]:
    items = []
    for one in blobs:
        if not isinstance(one, SecretBlob):
            context = key_context(one, tenant_uid)
            # Sealed anew under the same key, and thrown away: it opens, and nothing leaves the token process.
            items.append(
                ResealItem(
                    wrapping_key_id=key.key_id,
                    sealed_key=one.blob,
                    context=context,
                    new_wrapping_key_id=key.key_id,
                    new_context=context,
                )
            )
    outcomes = iter(client.reseal(items) if items else [])
    for one in blobs:
        if isinstance(one, SecretBlob):
            try:
                client.open_secret(one.blob, wrapping_key_id=key.key_id, context=secret_context(one, tenant_uid))
            except CertdError as failure:
                yield failure.message
            else:
                yield ""
        else:
            outcome = next(outcomes)
            yield outcome.message if isinstance(outcome, CertdError) else ""
