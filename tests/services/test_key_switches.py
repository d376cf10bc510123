"""Another key comes to sign in the name of an authority while something is being issued."""

import uuid

import pytest

from certd.errors import CertdError, Reason
from certd.services.idempotency import RequestKey
from tests.services.authority_lives import reissue
from tests.services.conftest import World
from tests.services.rotated_books import activate, authority_in, certificate, prepare


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
    ca.steps.at["issue.3.intended"] = lambda: activate(ca, 2, "root")
    made = reissue(ca).authority
    assert made.chain == (old,)
    certificate(made.certificate).verify_directly_issued_by(certificate(old))
