"""certctl managed import against a server of our own: what it reads, shows, seals, and refuses before it sends."""

import json
from collections.abc import Callable
from datetime import timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from certd.pki.import_key import import_key_statement
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ImportKey
from certd.v1.x509_pb2 import EncodedCertificate
from certd.v1.x509_pb2 import Warning as WarningMessage
from tests.api.imports_of_clients import (
    NOW,
    ROOT,
    SHOP,
    Files,
    Importing,
    files,
    importing,
    sealed_key,
    shop,
)
from tests.certctl import Certctl
from tests.fakes_server import Failing, FakeServer, Issued, make_root
from tests.imports import Pair, pair

__all__ = ["files", "importing", "shop"]


def test_it_seals_the_key_and_shows_what_comes_and_what_came(
    fake: FakeServer, certctl: Certctl, importing: Importing, shop: Pair, files: Files
) -> None:
    importing.answered.warnings.append(WarningMessage(field="certificate_chain", message="was put in order"))
    ended = certctl("managed", "import", "shop", *files.of(shop), "--label", "team=web", "--exportable")
    assert ended.code == 0, ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    assert (request.parent, request.managed_certificate_id) == ("tenants/default", "shop")
    assert request.certificate == shop.der
    assert request.certificate_chain == shop.chain_pem
    assert request.export_policy == ManagedCertificate.EXPORTABLE
    assert (dict(request.labels), request.replace, request.validate_only) == ({"team": "web"}, False, False)
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()
    assert isinstance(shop.key, ec.EllipticCurvePrivateKey)
    number = shop.key.private_numbers().private_value.to_bytes(32)
    assert not any(number in message.SerializeToString() for _, message in fake.calls)
    before, _, after = ended.out.partition("\n\n")
    for told in (
        "shop.example.internal\n",
        "www.shop.example.internal",
        "CN=Outside Issuer",
        "CN=Outside Root",
        "89 days left",
        "EC_P256",
        "ECDSA_WITH_SHA256",
        "serverAuth, digitalSignature",
    ):
        assert told in before
    assert "version 1" in after
    assert ended.err == "certctl: warning: certificate_chain: was put in order\n"


def test_a_key_is_not_sealed_as_exportable_unless_asked(
    fake: FakeServer, certctl: Certctl, importing: Importing, shop: Pair, files: Files
) -> None:
    assert certctl("managed", "import", "shop", *files.of(shop), "--validate-only").code == 0
    (request,) = fake.requests("ImportManagedCertificate")
    assert request.export_policy == ManagedCertificate.NOT_EXPORTABLE
    assert request.validate_only
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()


@pytest.mark.usefixtures("importing")
def test_json_is_the_resource_alone(certctl: Certctl, shop: Pair, files: Files) -> None:
    ended = certctl("managed", "import", "shop", *files.of(shop), "-o", "json")
    assert json.loads(ended.out)["currentVersion"] == "1"
    assert ended.err == ""


Tampered = Callable[[Importing, Issued], ImportKey]


def with_another_key(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(public_key=X25519PrivateKey.generate().public_key().public_bytes_raw())


def with_another_statement(importing: Importing, _root: Issued) -> ImportKey:
    thief = import_key_statement(
        tenant="opaque",
        import_key_id="k0123456789abcdef",
        public_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        expire_time=NOW + timedelta(days=30),
    )
    return importing.key(statement=thief)


def with_a_foreign_signature(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(signer=make_root("Thief"))


def under_a_foreign_root(importing: Importing, _root: Issued) -> ImportKey:
    thief = make_root("Test Root")
    return importing.key(signer=thief, certificate=thief)


def that_has_ended(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(expire_time=NOW - timedelta(seconds=1))


def that_ends_later_than_is_vouched_for(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(told_expire_time=NOW + timedelta(days=3000))


def of_another_tenant(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(name="tenants/other/importKeys/k0123456789abcdef")


def with_another_id(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(stated_id="k00000000000000ff")


def of_an_unknown_algorithm(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(signature_algorithm=0)


@pytest.mark.parametrize(
    "tampered",
    [
        with_another_key,
        with_another_statement,
        with_a_foreign_signature,
        under_a_foreign_root,
        that_has_ended,
        that_ends_later_than_is_vouched_for,
        of_another_tenant,
        with_another_id,
        of_an_unknown_algorithm,
    ],
    ids=lambda tampered: tampered.__name__,
)
def test_an_import_key_that_the_roots_do_not_vouch_for_is_sealed_to_by_nobody(
    fake: FakeServer,
    certctl: Certctl,
    importing: Importing,
    root: Issued,
    shop: Pair,
    files: Files,
    tampered: Tampered,
) -> None:
    fake.answer("GetImportKey", tampered(importing, root))
    ended = certctl("managed", "import", "shop", *files.of(shop))
    assert ended.code == 1
    assert ended.err.startswith("certctl: ANSWER_INCONSISTENT: the import key of tenants/default ")
    assert "Nothing was sent" in ended.err
    assert not fake.requests("ImportManagedCertificate")


@pytest.mark.usefixtures("importing")
def test_replace_shows_what_changes(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    coming = pair(
        ROOT,
        "shop.example.internal",
        "new.example.internal",
        now=NOW,
        ends=timedelta(days=200),
        extended=[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    )
    fake.answer("GetManagedCertificate", there(shop))
    ended = certctl("managed", "import", "shop", *files.of(coming), "--replace")
    assert ended.code == 0, ended.err
    assert fake.requests("ImportManagedCertificate")[0].replace
    lines = [line.split(maxsplit=2) for line in ended.out.splitlines()]
    flat = "\n".join(" ".join(words) for words in lines)
    for told in (
        "Replaces version 3",
        "Names change + new.example.internal",
        "- www.shop.example.internal",
        "Days change 89 days left → 199 days left",
        "Key changes to another key, EC_P256 too",
        "Issuer changes CN=Outside Issuer → CN=Outside Root",
        "Usages change + clientAuth",
        "Export stays NOT_EXPORTABLE",
    ):
        assert told in flat, flat


def there(shop: Pair, policy: int = ManagedCertificate.NOT_EXPORTABLE) -> ManagedCertificate:
    """Returns what a new version is imported of."""
    return ManagedCertificate(
        name=SHOP,
        current_version=3,
        certificate=EncodedCertificate(der=shop.der),
        export_policy=policy,  # type: ignore[arg-type]  # Servers of the future may have others.
    )


@pytest.mark.parametrize("policy", [ManagedCertificate.EXPORTABLE, ManagedCertificate.NOT_EXPORTABLE])
def test_a_new_version_is_sealed_for_the_policy_of_the_ones_before(
    fake: FakeServer, certctl: Certctl, importing: Importing, shop: Pair, files: Files, policy: int
) -> None:
    fake.answer("GetManagedCertificate", there(shop, policy))
    assert certctl("managed", "import", "shop", *files.of(shop), "--replace").code == 0
    (request,) = fake.requests("ImportManagedCertificate")
    assert request.export_policy == policy
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()
    assert len(fake.requests("GetManagedCertificate")) == 1


def test_what_is_said_of_export_is_what_a_new_version_is_sealed_for(
    fake: FakeServer, certctl: Certctl, importing: Importing, shop: Pair, files: Files
) -> None:
    """The server refuses it; it is not quietly made something else here."""
    fake.answer("GetManagedCertificate", there(shop))
    assert certctl("managed", "import", "shop", *files.of(shop), "--replace", "--exportable").code == 0
    (request,) = fake.requests("ImportManagedCertificate")
    assert request.export_policy == ManagedCertificate.EXPORTABLE
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()


@pytest.mark.usefixtures("importing")
def test_replace_says_what_stays(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    fake.answer("GetManagedCertificate", there(shop))
    out = certctl("managed", "import", "shop", *files.of(shop), "--replace").out
    flat = "\n".join(" ".join(line.split()) for line in out.splitlines())
    for told in ("Names change no", "Key changes no, it is the same key", "Issuer changes no", "Usages change no"):
        assert told in flat


def test_roll_back(fake: FakeServer, certctl: Certctl) -> None:
    answer = ManagedCertificate(name=SHOP, state=ManagedCertificate.ACTIVE, current_version=2)
    fake.answer("RollBackManagedCertificate", answer)
    ended = certctl("managed", "import", "shop", "--rollback")
    assert ended.code == 0
    assert f"{SHOP}, version 2" in ended.out
    certctl("managed", "import", "shop", "--rollback", "--version", "1")
    requests = fake.requests("RollBackManagedCertificate")
    assert [(request.name, request.version) for request in requests] == [(SHOP, 0), (SHOP, 1)]
    assert all(request.request_id for request in requests)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--certificate and --private-key"),
        (("--certificate", "c.pem"), "--certificate and --private-key"),
        (("--certificate", "c.pem", "--private-key", "k.pem", "--version", "2"), "--rollback"),
        (
            ("--certificate", "c.pem", "--private-key", "k.pem", "--passphrase-file", "p"),
            "--private-key-passphrase-file",
        ),
        (("--pkcs12", "x.p12", "--chain", "ch.pem"), "--pkcs12"),
        (("--certificate", "-", "--private-key", "-"), "standard input"),
        (("--rollback", "--replace"), "--rollback"),
        (("--rollback", "--validate-only"), "--validate-only"),
        (("--rollback", "--certificate", "c.pem"), "--rollback"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_read(
    fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...], told: str
) -> None:
    ended = certctl("managed", "import", "shop", *arguments)
    assert ended.code == 2
    assert told in ended.err
    assert not fake.calls


@pytest.mark.usefixtures("importing")
def test_what_the_server_refuses_is_told(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    fake.answer(
        "ImportManagedCertificate",
        Failing(
            code=grpc.StatusCode.ALREADY_EXISTS,
            reason="MANAGED_CERTIFICATE_EXISTS",
            message="it exists already: say `replace` to import a new version of it",
        ),
    )
    ended = certctl("managed", "import", "shop", *files.of(shop))
    assert ended.code == 1
    assert ended.err.startswith("certctl: MANAGED_CERTIFICATE_EXISTS: ")
