"""Rows to test with."""

import hashlib
import itertools
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from certd.model.access import EVERYTHING, Grant, Role
from certd.model.association import Association
from certd.model.authority import Authority, AuthorityKey, AuthorityState, AuthorityType
from certd.model.certificate import Intent
from certd.model.event import Event, EventType
from certd.model.import_key import ImportKey
from certd.model.managed_certificate import (
    Condition,
    ManagedCertificate,
    ManagedCertificateState,
    ManagedCertificateVersion,
)
from certd.model.names import AssociationName
from certd.model.tenant import Tenant
from certd.model.wrapping_key import WrappingKey, WrappingKeyState
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.store import tenants
from certd.store.certificates import Completion
from certd.store.request_records import RequestRecord
from certd.store.store import Store

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ISSUER_NAME = hashlib.sha256(b"issuer").digest()
_numbers = itertools.count(1)


def tenant(tenant_id: str = "default") -> Tenant:
    return Tenant(tenant_id=tenant_id, uid=f"uid-of-{tenant_id}", create_time=NOW)


def add_tenant(store: Store, tenant_id: str = "default") -> None:
    store.write("test", lambda tx: tenants.insert(tx, tenant(tenant_id)))


def authority(authority_id: str = "web-ca", **changes: Any) -> Authority:
    key = AuthorityKey(number=1, key_id=secrets.token_bytes(16), policy=b"policy", public_key=None)
    sample = Authority(
        uid=f"authority-{next(_numbers)}",
        tenant="default",
        authority_id=authority_id,
        type=AuthorityType.SUBORDINATE,
        state=AuthorityState.AWAITING_CERTIFICATE,
        key_spec=KeySpec.EC_P256,
        signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
        subject=b"0\x00",
        lifetime=timedelta(days=1825),
        path_length=0,
        issuer_uid="root",
        key=key,
        labels={"owner": "Überwachung", "a": "b"},
        create_time=NOW,
        update_time=NOW,
    )
    return replace(sample, **changes)


def intent(**changes: Any) -> Intent:
    sample = Intent(
        authority_uid="authority",
        key_number=1,
        issuer_name_sha256=ISSUER_NAME,
        serial=secrets.token_hex(16),
        tbs=secrets.token_bytes(64),
        profile="end-entity",
        profile_version=1,
        subject_text="CN=www.example.internal",
        not_before=NOW,
        not_after=LATER,
        public_key_sha256=bytes(32),
        key_spec=KeySpec.EC_P256,
        managed_certificate_uid="managed",
        managed_certificate_version=3,
        labels={"team": "web"},
        owner_epoch=1,
        create_time=NOW,
    )
    return replace(sample, **changes)


def completion(of: Intent, **changes: Any) -> Completion:
    sample = Completion(
        authority_uid=of.authority_uid, serial=of.serial, der=b"signed " + of.tbs, owner_epoch=of.owner_epoch
    )
    return replace(sample, **changes)


def managed(managed_certificate_id: str = "web", **changes: Any) -> ManagedCertificate:
    sample = ManagedCertificate(
        uid=f"managed-{next(_numbers)}",
        tenant="default",
        managed_certificate_id=managed_certificate_id,
        authority_uid="authority",
        authority_name="tenants/default/authorities/web-ca",
        profile="end-entity",
        key_spec=KeySpec.EC_P256,
        subject=b"0\x00",
        names=SubjectAlternativeNames(dns_names=("www.example.internal", "a.example"), ip_addresses=("10.0.0.1",)),
        lifetime=timedelta(days=90),
        exportable=True,
        state=ManagedCertificateState.PENDING,
        conditions=(
            Condition(type="Issued", status=False, reason="Waiting", message="soon", last_transition_time=NOW),
        ),
        next_attempt_time=LATER,
        labels={"team": "web"},
        create_time=NOW,
        update_time=NOW,
    )
    return replace(sample, **changes)


def version(of: ManagedCertificate, number: int = 1) -> ManagedCertificateVersion:
    return ManagedCertificateVersion(
        managed_certificate_uid=of.uid,
        number=number,
        public_key=b"public key",
        wrapping_key_number=1,
        authority_uid="authority",
        serial=None,
        create_time=NOW,
    )


def association(of: ManagedCertificate, association_id: str = "machine", consumer: str = "") -> Association:
    name = f"tenants/{of.tenant}/identities/{consumer or association_id}"
    return Association(
        managed_certificate_uid=of.uid,
        name=AssociationName(of.name, association_id),
        consumer=name,
        consumer_spiffe_id=f"spiffe://example/{name}",
        creator="spiffe://example/identities/admin",
        create_time=NOW,
        current_version=of.current_version,
    )


def import_key(import_key_id: str = "k1", **changes: Any) -> ImportKey:
    sample = ImportKey(
        tenant="default",
        import_key_id=import_key_id,
        public_key=bytes(32),
        wrapping_key_number=1,
        sealed_key=b"sealed import key",
        statement=b"statement",
        signature=b"signature",
        signature_algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
        authority_certificate=b"certificate",
        create_time=NOW,
        expire_time=LATER,
    )
    return replace(sample, **changes)


def wrapping_key(number: int = 1, tenant_id: str = "default") -> WrappingKey:
    return WrappingKey(
        tenant=tenant_id,
        number=number,
        key_id=secrets.token_bytes(16),
        state=WrappingKeyState.PRIMARY,
        create_time=NOW,
    )


def grant(**changes: Any) -> Grant:
    sample = Grant(
        grant_id=f"grant-{next(_numbers)}",
        principal="spiffe://example/identities/admin",
        role=Role.ISSUER,
        scope=EVERYTHING,
        profiles=frozenset({"end-entity", "server"}),
    )
    return replace(sample, **changes)


def record(**changes: Any) -> RequestRecord:
    sample = RequestRecord(
        principal="spiffe://example/identities/admin",
        method="/certd.v1.CertificateService/IssueCertificate",
        request_id="0b5cbd9e-5bd3-4d0f-8e2a-5bd0e8a4f6c1",
        request_sha256=bytes(32),
        resource=None,
        create_time=NOW,
    )
    return replace(sample, **changes)


def event(resource: str = "tenants/default", **changes: Any) -> Event:
    sample = Event(
        time=NOW,
        type=EventType.TENANT_CREATED,
        tenant="default",
        principal="certd",
        resource=resource,
        details={"b": "2", "a": "ü"},
    )
    return replace(sample, **changes)
