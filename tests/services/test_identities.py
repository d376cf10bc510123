"""Identities and the server's certificate: issued when there is none, found when there is."""

from datetime import timedelta

from cryptography import x509

from certd.pki.credential_request import new_credential_request
from certd.pki.names import SubjectAlternativeNames
from certd.services.identities import Identities
from tests.services.conftest import TRUST_DOMAIN, World


def identities(world: World) -> Identities:
    core = world.core
    return Identities(store=core.store, clock=core.clock, loop=core.loop, system_authority=core.system_authority)


def test_a_server_certificate_is_found_again_by_its_key(world: World) -> None:
    csr = new_credential_request().csr
    names = SubjectAlternativeNames(
        dns_names=("localhost", "certd.example.internal"), ip_addresses=("127.0.0.1", "::1")
    )
    first = identities(world).ensure_server(names, csr)
    again = identities(world).ensure_server(names, csr)
    assert (first.created, again.created) == (True, False)
    assert again.certificate == first.certificate


def test_a_server_that_is_named_anew_gets_a_certificate_of_these_names(world: World) -> None:
    csr = new_credential_request().csr
    old, new = (SubjectAlternativeNames(dns_names=(name,)) for name in ("localhost", "ca.example.internal"))
    first = identities(world).ensure_server(old, csr)
    world.clock.advance(timedelta(seconds=1))
    assert identities(world).ensure_server(new, csr).certificate == first.certificate
    named = identities(world).ensure_server(new, csr, any_names=False)
    assert named.created
    certificate = x509.load_der_x509_certificate(named.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ca.example.internal"]
    assert not identities(world).ensure_server(new, csr, any_names=False).created


def test_another_identity_never_gets_the_certificate_of_the_first(world: World) -> None:
    csr = new_credential_request().csr
    one, two = (f"spiffe://{TRUST_DOMAIN}/identities/{name}" for name in ("one", "two"))
    identities(world).ensure_identity(one, csr)
    world.clock.advance(timedelta(seconds=1))
    second = identities(world).ensure_identity(two, csr)
    assert second.created
    uris = x509.load_der_x509_certificate(second.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert uris.value.get_values_for_type(x509.UniformResourceIdentifier) == [two]
    assert not identities(world).ensure_identity(two, csr).created
