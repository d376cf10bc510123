"""A campaign for a consumer revokes also what that was associated with once: it may have the keys yet."""

from datetime import timedelta

import pytest

from certd.model.names import AssociationName, ManagedCertificateName
from certd.model.revocation_campaign import OfConsumer
from certd.services import revocation_campaigns as campaigns_module
from certd.services import revocation_selection
from tests.services.conftest import ADMINISTRATOR, World
from tests.services.consumers import Consumer, active, associate, consumer
from tests.services.incidents import counts, ended, revoked_names, serial_of, start
from tests.services.managed_books import renewed
from tests.services.revocation_books import CA


def name_of(managed_id: str) -> ManagedCertificateName:
    return ManagedCertificateName("default", managed_id)


def test_all_versions_that_a_consumer_may_have_had(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns_module, "TOGETHER", 2)
    monkeypatch.setattr(revocation_selection, "_SPAN", 7)
    who, other = consumer(ca), consumer(ca, "other")
    names = set()

    def end(managed_id: str, one: Consumer = who) -> None:
        name = AssociationName(name_of(managed_id), one.name.identity)
        ca.core.associations.delete(ADMINISTRATOR, name, key=None)
        ca.clock.advance(timedelta(seconds=1))

    for managed_id in ("web-1", "web-2", "gone", "back"):
        name = name_of(managed_id)
        for view in (active(ca, name), renewed(ca, name), renewed(ca, name)):
            if managed_id != "gone":
                names.add(f"{CA}/certificates/{serial_of(view.certificate)}")
        associate(ca, who, name)
        end(managed_id)
    associate(ca, who, name_of("back"))
    ca.core.managed_certificate_changes.delete(ADMINISTRATOR, name_of("gone"), etag="", key=None, validate_only=False)
    # What came after its time it never had, nor what another one did.
    renewed(ca, name_of("web-1"))
    active(ca, name_of("web-3"))
    associate(ca, other, name_of("web-3"))
    end("web-3", other)
    start(ca, OfConsumer(str(who.name)))
    done = ended(ca)
    assert (counts(done), done.failed_certificates) == ((10, 9, 0, 1), (str(name_of("gone")),))
    assert revoked_names(ca) == names
