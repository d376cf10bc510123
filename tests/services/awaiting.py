"""Authorities that await the certificate of an outside parent, and short ways to take them further."""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certd.model.access import Caller
from certd.model.authority import AuthorityType
from certd.model.names import AuthorityName
from certd.services.authority_activation import Activation
from certd.services.authority_changes import Change
from certd.services.authority_views import AuthorityView
from certd.services.idempotency import RequestKey
from tests.outside_parent import OutsideAuthority, certify, outside_authority, pem_of
from tests.services.conftest import ADMINISTRATOR, World

SUB = AuthorityName("default", "sub")


def create_awaiting(world: World, **changes: Any) -> AuthorityView:
    """Makes the authority `sub`, whose parent is an outside one."""
    return world.create_root("sub", **({"type": AuthorityType.SUBORDINATE} | changes))


def csr_of(world: World, name: AuthorityName = SUB) -> bytes:
    """Returns the DER of its CSR."""
    return world.core.authority_activation.csr(ADMINISTRATOR, name)


def parents(world: World, **changes: Any) -> OutsideAuthority:
    """Makes an outside root and an authority below it, with changes to that one."""
    root = outside_authority("Outside Root", now=world.clock.now())
    return outside_authority("Outside Middle", root, now=world.clock.now(), **changes)


def certified(world: World, parent: OutsideAuthority, **changes: Any) -> bytes:
    """Returns what `parent` makes from the CSR of `sub`: all that it asks for, unless told otherwise."""
    request = x509.load_der_x509_csr(csr_of(world))
    constraints = request.extensions.get_extension_for_class(x509.BasicConstraints).value
    asked = {x509.BasicConstraints, x509.KeyUsage, x509.SubjectKeyIdentifier}
    more = [(one.value, one.critical) for one in request.extensions if type(one.value) not in asked]
    wanted: dict[str, Any] = {
        "now": world.clock.now(),
        "subject": request.subject,
        "public_key": request.public_key(),
        "path_length": constraints.path_length,
        "extensions": more,
    }
    return certify(parent, **(wanted | changes)).public_bytes(Encoding.DER)


def activate(
    world: World,
    certificate: bytes,
    chain: tuple[bytes, ...],
    *,
    name: AuthorityName = SUB,
    caller: Caller = ADMINISTRATOR,
    etag: str = "",
    key: RequestKey | None = None,
    validate_only: bool = False,
    broken: bool = False,
) -> AuthorityView:
    """Installs a certificate."""
    change = Change(name=name, etag=etag, key=key, validate_only=validate_only)
    given = Activation(certificate=pem_of(certificate), chain=pem_of(*chain), allow_broken_certificates=broken)
    return world.core.authority_activation.activate(caller, change, given)


def create_active(world: World, parent: OutsideAuthority | None = None, **changes: Any) -> AuthorityView:
    """Makes `sub` with an outside parent, and activates it."""
    parent = parent or parents(world)
    create_awaiting(world, **changes)
    return activate(world, certified(world, parent), parent.chain)
