"""TBSCertLists: the same bytes as the library's builder writes, and none but those are read again."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certd.errors import CertdError, Reason
from certd.model.certificate import RevocationReason
from certd.pki import revocation_list
from certd.pki.key_spec import SignatureAlgorithm

NAME = x509.Name(
    [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Exämple"), x509.NameAttribute(NameOID.COMMON_NAME, "CA")]
)
KEY = ec.generate_private_key(ec.SECP256R1())
URLS = ("http://pki.example/crl/u/1/2.crl", "http://other.example/2.crl")


def random_time(draw: random.Random, first: int, last: int) -> datetime:
    begin = datetime(first, 1, 1, tzinfo=UTC)
    return begin + timedelta(seconds=draw.randrange(int((datetime(last, 1, 1, tzinfo=UTC) - begin).total_seconds())))


@pytest.mark.parametrize("seed", range(60))
def test_it_is_what_the_library_writes(seed: int) -> None:
    draw = random.Random(seed)
    this_update = random_time(draw, 2020, 2100)
    next_update = this_update + timedelta(seconds=draw.randrange(1, 10**8))
    number = draw.choice([0, 1, 127, 128, 255, 2**40, 2**158])
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(NAME)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(x509.AuthorityKeyIdentifier(b"k" * 20, None, None), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    extensions = [revocation_list.authority_key_identifier(b"k" * 20), revocation_list.crl_number(number)]
    if draw.random() < 0.5:
        names = [x509.UniformResourceIdentifier(url) for url in URLS]
        point = x509.IssuingDistributionPoint(names, None, False, False, None, False, False)
        builder = builder.add_extension(point, critical=True)
        extensions.append(revocation_list.issuing_distribution_point(URLS))
    since = random_time(draw, 2000, 2060)
    if draw.random() < 0.5:
        value = b"\x18\x0f" + f"{since:%Y%m%d%H%M%SZ}".encode()
        oid = x509.ObjectIdentifier(revocation_list.EXPIRED_CERTIFICATES_ON_CRL)
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        extensions.append(revocation_list.expired_certificates_on_crl(since))
    entries = []
    for _ in range(draw.choice([0, 1, 2, 200])):
        serial = draw.getrandbits(draw.choice([1, 7, 8, 126, 127, 128, 159])) | 1
        revoked, reason = random_time(draw, 2000, 2100), draw.choice([None, *RevocationReason])
        invalid = draw.choice([None, random_time(draw, 2000, 2100)])
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revoked)
        if reason not in {None, RevocationReason.UNSPECIFIED}:
            one = one.add_extension(x509.CRLReason(x509.ReasonFlags(reason)), critical=False)
        if invalid is not None:
            one = one.add_extension(x509.InvalidityDate(invalid), critical=False)
        builder = builder.add_revoked_certificate(one.build())
        text = f"{serial:x}"
        entries.append(
            revocation_list.entry(
                text.zfill(len(text) + len(text) % 2),
                revoke_time=int(revoked.timestamp()),
                reason=reason,
                invalidity_time=None if invalid is None else int(invalid.timestamp()),
            )
        )
    written = revocation_list.tbs_revocation_list(
        algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
        issuer=NAME.public_bytes(),
        this_update=this_update,
        next_update=next_update,
        # However the entries come.
        entries=[b"".join(entries[:3]), *entries[3:]],
        extensions=extensions,
    )
    assert written == builder.sign(KEY, hashes.SHA256()).tbs_certlist_bytes
    read = revocation_list.parse_tbs_revocation_list(written)
    assert (read.issuer, read.number, read.this_update, read.next_update) == (
        NAME.public_bytes(),
        number,
        this_update,
        next_update,
    )


def test_whatever_is_cut_off_is_none() -> None:
    whole = revocation_list.tbs_revocation_list(
        algorithm=SignatureAlgorithm.ECDSA_WITH_SHA256,
        issuer=NAME.public_bytes(),
        this_update=datetime(2030, 1, 1, tzinfo=UTC),
        next_update=datetime(2030, 1, 8, tzinfo=UTC),
        entries=[revocation_list.entry("5b01", revoke_time=1, reason=None, invalidity_time=None)],
        extensions=[revocation_list.crl_number(1)],
    )
    for end in range(len(whole)):
        with pytest.raises(CertdError) as refused:
            revocation_list.parse_tbs_revocation_list(whole[:end])
        assert refused.value.reason is Reason.FIELD_INVALID
