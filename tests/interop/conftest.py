"""A hierarchy of authorities for every kind of key, made once and read by every test."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from certd import main
from certd.clock import SystemClock
from certd.core import Core
from certd.pki.credential_request import new_credential_request
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.services.bootstrap import Bootstrapped
from certd.services.steps import no_step
from certd.store.migration import migrate
from tests.interop import mbedtls as mbedtls_program
from tests.interop.hierarchy import Hierarchy, make_hierarchy, make_request
from tests.services.conftest import TRUST_DOMAIN, configuration
from tests.softhsm import make_token

KINDS: tuple[tuple[KeySpec, SignatureAlgorithm | None], ...] = (
    *((spec, None) for spec in KeySpec),
    # Algorithms that a key signs with only when it is told to.
    (KeySpec.RSA_2048, SignatureAlgorithm.SHA384_WITH_RSA),
    (KeySpec.RSA_2048, SignatureAlgorithm.SHA512_WITH_RSA),
    (KeySpec.EC_P384, SignatureAlgorithm.ECDSA_WITH_SHA512),
)


Thing = TypeVar("Thing")


class Made:
    """What a fixture made for each of its parameters. A worker may come back to one, and pytest forgets the others."""

    def __init__(self) -> None:
        self._things: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Thing]) -> Thing:
        """Returns what was made under this key, or makes it."""
        if key not in self._things:
            self._things[key] = make()
        thing: Thing = self._things[key]
        return thing


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The server without listeners, on the clock that other programs look at, and its own certificates."""

    core: Core
    bootstrapped: Bootstrapped


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    config = configuration(tmp_path_factory.mktemp("server"), make_token(tmp_path_factory.mktemp("token")))
    migrate(config.database.url)
    core = main.assemble(config, clock=SystemClock(), step=no_step)
    core.start()
    try:
        bootstrapped = core.bootstrap.run(
            trust_domain=TRUST_DOMAIN,
            server_names=SubjectAlternativeNames(dns_names=("localhost",), ip_addresses=("127.0.0.1",)),
            server_csr=new_credential_request().csr,
            administrator_id="admin",
            administrator_csr=new_credential_request().csr,
        )
        yield System(core=core, bootstrapped=bootstrapped)
    finally:
        core.stop()


@pytest.fixture(scope="session")
def made() -> Made:
    return Made()


@pytest.fixture(scope="session")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Mapping[KeySpec, bytes]:
    """A CSR of openssl for each kind of key."""
    folder = tmp_path_factory.mktemp("requests")
    return {spec: make_request(folder, spec) for spec in KeySpec}


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}" if kind[1] else str(kind[0]))
def hierarchy(
    request: pytest.FixtureRequest,
    system: System,
    made: Made,
    requests: Mapping[KeySpec, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Hierarchy:
    key_spec, signature_algorithm = request.param

    def make() -> Hierarchy:
        return make_hierarchy(
            system.core,
            tmp_path_factory.mktemp(str(key_spec)),
            key_spec=key_spec,
            signature_algorithm=signature_algorithm,
            requests=requests,
        )

    return made.once(("hierarchy", *request.param), make)


@pytest.fixture(scope="session")
def mbedtls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mbedtls_verify.c, compiled."""
    if not mbedtls_program.is_here():
        pytest.skip("there is no mbedTLS on this machine, or no C compiler")
    return mbedtls_program.build(tmp_path_factory.mktemp("mbedtls"))
