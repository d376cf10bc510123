"""Another key comes to sign in the name of an authority while something is being issued."""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.model.names import CertificateName, serial_text
from certd.model.revocation_list import RevocationList, RevocationListKey
from certd.services.idempotency import RequestKey
from certd.services.revocation import NewRevocation
from certd.store import revocation_lists
from tests.services.authority_lives import reissue
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.revocation_books import settle
from tests.services.rotated_books import activate, authority_in, certificate, prepare, retire
from tests.waiting import eventually


def test_after_a_switch_the_old_key_signs_nothing_that_was_prepared_for_it(ca: World) -> None:
    prepare(ca)
    key = RequestKey(str(uuid.uuid4()), b"a")
    ca.steps.at["issue.2.prepared"] = lambda: activate(ca, 2)
    with pytest.raises(CertdError, match="another key") as caught:
        ca.issue("www.example.internal", key=key)
    assert caught.value.reason is Reason.OWNERSHIP_LOST
    assert caught.value.retry_after is not None
    # Nothing was intended, so that the same request is made by the key that signs now.
    assert "issue.3.intended" not in ca.steps.seen[ca.steps.seen.index("issue.2.prepared") :]
    again = ca.issue("www.example.internal", key=key)
    certificate(again.der).verify_directly_issued_by(certificate(authority_in(ca).certificate))
    assert again.certificate.key_number == 2


def test_what_the_old_key_of_an_issuer_is_signing_gets_the_chain_of_that_key(ca: World) -> None:
    old = authority_in(ca, "root").certificate
    prepare(ca, "root")
    with ThreadPoolExecutor(1) as another:
        switches: list[Future[Any]] = []

        def switch() -> None:
            switches.append(another.submit(activate, ca, 2, "root"))
            eventually(lambda: authority_in(ca, "root").key.number == 2)
            # Who switches waits for what the old key is to sign.
            assert not switches[0].done()

        ca.steps.at["issue.3.intended"] = switch
        made = reissue(ca).authority
        assert switches[0].result().warnings == ()
    assert made.chain == (old,)
    certificate(made.certificate).verify_directly_issued_by(certificate(old))


def test_a_key_that_signs_again_while_its_last_crl_is_signed_has_no_last_crl(ca: World) -> None:
    ca.core.scheduler.stop()
    prepare(ca)
    activate(ca, 2)
    # It has signed nothing, so that the CRL that is signed now would be its last.
    ca.steps.at["revocation-list.signed"] = lambda: activate(ca, 1)
    ca.core.publication.list_signing.sign(_first_list(ca, "ca").key, ADMINISTRATOR.principal)
    assert not _first_list(ca, "ca").final


def test_a_cross_certificate_that_a_retired_key_signed_can_be_revoked_after_its_last_crl(ca: World) -> None:
    (new_by_old,) = prepare(ca, "root", cross_certify=True).cross_certificates[2]
    activate(ca, 2, "root")
    # Nothing but certificates of its own keys is left of it when the authority below has ended.
    ca.clock.advance(authority_in(ca, "ca").lifetime)
    retire(ca, 1, "root")
    settle(ca)
    assert _first_list(ca, "root").final
    serial = serial_text(certificate(new_by_old).serial_number)
    new = NewRevocation(name=CertificateName("default", "root", serial))
    ca.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)
    settle(ca)
    with ca.core.store.read("test.list") as tx:
        content = revocation_lists.content(tx, _first_list(ca, "root").key)
    assert content is not None
    assert serial in [serial_text(one.serial_number) for one in x509.load_der_x509_crl(content[0])]


def _first_list(world: World, authority_id: str) -> RevocationList:
    """Returns the complete CRL of the first key of an authority."""
    with world.core.store.read("test.list") as tx:
        found = revocation_lists.get(tx, RevocationListKey(authority_in(world, authority_id).uid, 1, 0))
    assert found is not None
    return found


def test_health_tells_in_time_that_a_next_key_is_due(ca: World) -> None:
    def told() -> list[str]:
        # Whatever was found is told for ten minutes.
        ca.clock.advance(timedelta(minutes=11))
        return [sentence for sentence in ca.core.health.complaints() if "next keys" in sentence]

    # Of daemons, too, which would be taken for dead when years pass.
    ca.core.scheduler.stop()
    ca.issue("www.example.internal", lifetime=timedelta(days=90))
    assert told() == []
    ca.clock.advance(authority_in(ca).lifetime - timedelta(days=130))
    # What has ended says nothing of what is issued now.
    assert told() == []
    ca.issue("www.example.internal", lifetime=timedelta(days=90))
    (sentence,) = told()
    assert sentence.startswith("1 authorities")
    prepare(ca, lifetime=timedelta(days=365))
    activate(ca, 2)
    assert told() == []


def test_a_compromised_key_signs_no_more_whichever_of_its_certificates_was_revoked(ca: World) -> None:
    serial = serial_text(certificate(authority_in(ca).certificate).serial_number)
    reissue(ca)
    prepare(ca)
    activate(ca, 2)
    new = NewRevocation(name=CertificateName("default", "root", serial), reason=RevocationReason.KEY_COMPROMISE)
    ca.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)
    with pytest.raises(CertdError, match="revoked") as caught:
        activate(ca, 1)
    assert caught.value.reason is Reason.STATE_FORBIDS
