"""What that which is sealed under a wrapping key is bound to, by the rows that say so."""

import hashlib
from dataclasses import replace

from certd.pki import import_key
from certd.pki.sealing import Purpose, SealContext, SecretContext
from certd.services.import_keys import import_context
from certd.store.sealed_under import ConsumerBlob, CustodyBlob, ImportBlob, SecretBlob


def key_context(one: CustodyBlob | ConsumerBlob | ImportBlob, tenant_uid: str) -> SealContext:
    """Returns what a key is bound to, before and after."""
    match one:
        case CustodyBlob():
            return SealContext(
                tenant=tenant_uid,
                certificate=one.managed_certificate_uid,
                version=one.version,
                purpose=Purpose.CUSTODY,
                exportable=one.exportable,
                public_key_sha256=hashlib.sha256(one.public_key).digest(),
            )
        case ConsumerBlob():
            return SealContext(
                tenant=tenant_uid,
                certificate=one.managed_certificate_uid,
                version=one.version,
                purpose=Purpose.ASSOCIATION,
                consumer=one.consumer,
                exportable=False,
                public_key_sha256=hashlib.sha256(one.public_key).digest(),
            )
        case ImportBlob():
            public_key = import_key.subject_public_key_info(one.public_key)
            context = import_context(tenant_uid, one.import_key_id)
            return replace(context, public_key_sha256=hashlib.sha256(public_key).digest())


def secret_context(one: SecretBlob, tenant_uid: str) -> SecretContext:
    """Returns what a secret is bound to, before and after."""
    return SecretContext(tenant=tenant_uid, subscription=one.subscription_uid, number=one.number)
