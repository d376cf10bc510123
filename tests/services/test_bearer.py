"""Who shows a token: every check, with forged tokens, against the keys of a real issuer."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from certd.errors import CertdError, Reason
from certd.model.oidc import OidcProvider, principal_of
from certd.outbound.jwks import KeySet
from certd.pki.credential_request import new_credential_request
from certd.pki.names import parse_spiffe_id
from certd.services.bearer import LEEWAY, LONGEST_LIFE, LONGEST_TOKEN, Bearer
from tests.fakes import FakeClock
from tests.oidc import AUDIENCE, EC_KEY, ED_KEY, RSA_KEY, Issuer, jwk, running_issuer, token
from tests.services.conftest import TRUST_DOMAIN, World

_CLOCK = FakeClock()
_NOW = _CLOCK.now()
_SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with running_issuer(tmp_path_factory.mktemp("issuer")) as running:
        running.keys = [jwk(EC_KEY, "ec"), jwk(RSA_KEY, "rsa"), jwk(ED_KEY, "ed"), jwk(RSA_KEY, "pss", alg="PS256")]
        yield running


@pytest.fixture(scope="module")
def provider(issuer: Issuer) -> OidcProvider:
    return OidcProvider(
        name="ci",
        issuer=issuer.url,
        audience=AUDIENCE,
        jwks_url=issuer.jwks_url,
        algorithms=("RS256", "ES256", "EdDSA"),
        ca_file=issuer.ca_file,
    )


@pytest.fixture(scope="module")
def keys(provider: OidcProvider) -> Iterator[KeySet]:
    made = KeySet(provider.jwks_url, provider.ca_file, clock=_CLOCK)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def bearer(provider: OidcProvider, keys: KeySet) -> Bearer:
    return Bearer([(provider, keys)], clock=_CLOCK, trust_domain="certd.test")


def _refusal(bearer: Bearer, shown: str) -> str:
    with pytest.raises(CertdError) as raised:
        bearer.authenticate(shown)
    assert raised.value.reason is Reason.CREDENTIAL_INVALID
    message = raised.value.message
    assert len(shown) < 10 or shown not in message
    assert "alice" not in message
    return message


def _part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("key", "algorithm", "key_id"), [(EC_KEY, "ES256", "ec"), (RSA_KEY, "RS256", "rsa"), (ED_KEY, "EdDSA", "ed")]
)
def test_a_good_token_names_its_caller(bearer: Bearer, issuer: Issuer, key: Any, algorithm: str, key_id: str) -> None:
    caller = bearer.authenticate(token(issuer.claims(_NOW), key, algorithm, key_id))
    assert (caller.principal, caller.serial) == ("spiffe://certd.test/oidc/ci/alice", "")
    assert caller.not_after == _NOW + timedelta(seconds=300)
    assert bearer.authenticate(token(issuer.claims(_NOW, aud=["x", AUDIENCE]), key, algorithm, key_id)) == caller


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_a_token_without_a_signature_is_refused(bearer: Bearer, issuer: Issuer, algorithm: str, signature: str) -> None:
    header = _part({"alg": algorithm, "kid": "rsa", "typ": "JWT"})
    assert "algorithm" in _refusal(bearer, f"{header}.{_part(issuer.claims(_NOW))}.{signature}")


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("algorithms", [None, ("HS256", "RS256")], ids=["as configured", "HS256 allowed"])
def test_a_public_key_is_no_secret_of_hmac(
    provider: OidcProvider, keys: KeySet, issuer: Issuer, encoding: Encoding, algorithms: tuple[str, ...] | None
) -> None:
    secret = RSA_KEY.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{_part({'alg': 'HS256', 'kid': 'rsa'})}.{_part(issuer.claims(_NOW))}"
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    forged = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    wide = replace(provider, algorithms=algorithms or provider.algorithms)
    assert "algorithm" in _refusal(Bearer([(wide, keys)], clock=_CLOCK, trust_domain="certd.test"), forged)


def test_the_key_is_the_issuers(bearer: Bearer, issuer: Issuer) -> None:
    claims = issuer.claims(_NOW)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert "signature" in _refusal(bearer, token(claims, other, "RS256", "rsa"))
    assert "signature" in _refusal(bearer, token(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", "ec"))
    assert "not publish" in _refusal(bearer, token(claims, other, "RS256", "other"))
    assert "no key" in _refusal(bearer, token(claims, RSA_KEY, "RS256"))
    # What the header brings along is nobody's word for it.
    assert "no key" in _refusal(bearer, token(claims, other, "RS256", jwk=jwk(other, "own")))
    url = "https://evil.example/keys"
    assert "signature" in _refusal(bearer, token(claims, other, "RS256", "rsa", jwk=jwk(other, "rsa"), jku=url))


def test_key_and_algorithm_fit(bearer: Bearer, issuer: Issuer) -> None:
    claims = issuer.claims(_NOW)
    assert "key that it names" in _refusal(bearer, token(claims, RSA_KEY, "RS256", "ec"))
    assert "key that it names" in _refusal(bearer, token(claims, EC_KEY, "ES256", "ed"))
    assert "key that it names" in _refusal(bearer, token(claims, RSA_KEY, "RS256", "pss"))
    assert "algorithm is none of" in _refusal(bearer, token(claims, RSA_KEY, "PS256", "pss"))
    assert "algorithm is none of" in _refusal(bearer, token(claims, RSA_KEY, "RS512", "rsa"))


def test_extensions_are_not_understood(bearer: Bearer, issuer: Issuer) -> None:
    _refusal(bearer, token(issuer.claims(_NOW), RSA_KEY, "RS256", "rsa", crit=["exp"], exp=1))
    _refusal(bearer, token(issuer.claims(_NOW), RSA_KEY, "RS256", "rsa", crit=[]))


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": None}, "audience"),
        ({"aud": "other"}, "audience"),
        ({"aud": AUDIENCE + "."}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": [[AUDIENCE]]}, "audience"),
        ({"aud": {AUDIENCE: 1}}, "audience"),
        ({"exp": None}, "exp"),
        ({"exp": "2145916800"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": float("inf")}, "exp"),
        ({"exp": float("nan")}, "exp"),
        ({"exp": 10**400}, "exp"),
        ({"exp": -1}, "exp"),
        ({"exp": (_NOW - LEEWAY).timestamp()}, "ended"),
        ({"iat": None}, "iat"),
        ({"iat": float("nan")}, "iat"),
        ({"iat": (_NOW + LEEWAY + _SECOND).timestamp()}, "not valid yet"),
        ({"nbf": (_NOW + LEEWAY + _SECOND).timestamp()}, "not valid yet"),
        ({"nbf": []}, "nbf"),
        ({"exp": (_NOW + LONGEST_LIFE + _SECOND).timestamp()}, "longer than a day"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": ["alice"]}, "sub"),
        ({"sub": "a" * 513}, "sub"),
        ({"sub": "a\ud800"}, "sub"),
        ({"sub": "€" * 170 + "aaa"}, "sub"),
    ],
)
def test_claims_are_checked(bearer: Bearer, issuer: Issuer, changed: dict[str, object], part: str) -> None:
    assert part in _refusal(bearer, token(issuer.claims(_NOW, **changed), EC_KEY, "ES256", "ec"))


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "", None, 7, ["JWT"]])
def test_a_token_of_another_type_is_no_credential(bearer: Bearer, issuer: Issuer, typ: object) -> None:
    header = _part({"alg": "ES256", "kid": "ec", "typ": typ})
    signed = f"{header}.{_part(issuer.claims(_NOW))}"
    assert "type" in _refusal(bearer, f"{signed}.{_signature(signed)}")


@pytest.mark.parametrize(
    "header", [{"typ": "JWT"}, {"typ": "jwt"}, {"typ": "at+jwt"}, {"typ": "application/at+jwt"}, {}]
)
def test_a_token_for_access_or_identity_is_one(bearer: Bearer, issuer: Issuer, header: dict[str, str]) -> None:
    signed = f"{_part({'alg': 'ES256', 'kid': 'ec', **header})}.{_part(issuer.claims(_NOW))}"
    bearer.authenticate(f"{signed}.{_signature(signed)}")


def _signature(signed: str) -> str:
    return base64.urlsafe_b64encode(ECAlgorithm(ECAlgorithm.SHA256).sign(signed.encode(), EC_KEY)).rstrip(b"=").decode()


def test_required_claims_may_be_truths(provider: OidcProvider, keys: KeySet, issuer: Issuer) -> None:
    strict = replace(provider, required_claims={"email_verified": True}, principal_claim="email")
    bearer = Bearer([(strict, keys)], clock=_CLOCK, trust_domain="certd.test")

    def shown(**more: object) -> str:
        return token(issuer.claims(_NOW, email="bob@certd.test", **more), EC_KEY, "ES256", "ec")

    assert bearer.authenticate(shown(email_verified=True)).principal.endswith("/oidc/ci/bob_40certd.test")
    for value in (False, None, 1, "true", [True]):
        assert "email_verified" in _refusal(bearer, shown(email_verified=value))


def test_clocks_may_differ_by_the_leeway(bearer: Bearer, issuer: Issuer) -> None:
    ended = (_NOW - LEEWAY + _SECOND).timestamp()
    early = (_NOW + LEEWAY).timestamp()
    bearer.authenticate(token(issuer.claims(_NOW, exp=ended, iat=ended - 60), EC_KEY, "ES256", "ec"))
    bearer.authenticate(token(issuer.claims(_NOW, iat=early, nbf=early), EC_KEY, "ES256", "ec"))


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "a",
        "..",
        "a.b.c",
        "e30.e30.",
        "bnVsbA.bnVsbA.",
        "W10.W10.W10",
        "é.é.é",
        "A" * (LONGEST_TOKEN + 1),
        "e30." * 9,
    ],
)
def test_what_is_no_token_is_refused(bearer: Bearer, shown: str) -> None:
    _refusal(bearer, shown)


def test_a_payload_that_is_too_deep_is_refused(bearer: Bearer) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    _refusal(bearer, f"{_part({'alg': 'RS256'})}.{deep}.AAAA")
    _refusal(bearer, f"{deep}.e30.AAAA")


def test_every_bit_of_a_token_counts(bearer: Bearer, issuer: Issuer) -> None:
    good = token(issuer.claims(_NOW), ED_KEY, "EdDSA", "ed")
    signed, _, signature = good.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    for place in range(len(raw)):
        bent = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        _refusal(bearer, f"{signed}.{base64.urlsafe_b64encode(bent).rstrip(b'=').decode()}")
    header, _, _ = signed.partition(".")
    _refusal(bearer, f"{header}.{_part(issuer.claims(_NOW, sub='root'))}.{signature}")


def test_claims_that_the_configuration_requires(provider: OidcProvider, keys: KeySet, issuer: Issuer) -> None:
    strict = replace(provider, required_claims={"group": "infra"}, principal_claim="job")
    bearer = Bearer([(strict, keys)], clock=_CLOCK, trust_domain="certd.test")
    good = token(issuer.claims(_NOW, group="infra", job="deploy"), EC_KEY, "ES256", "ec")
    assert bearer.authenticate(good).principal == "spiffe://certd.test/oidc/ci/deploy"
    for group in (None, "other", ["infra"], "infra "):
        shown = token(issuer.claims(_NOW, group=group, job="deploy"), EC_KEY, "ES256", "ec")
        assert "requires" in _refusal(bearer, shown)


def test_an_issuer_speaks_for_its_own_callers_alone(
    provider: OidcProvider, keys: KeySet, issuer: Issuer, tmp_path: Path
) -> None:
    with running_issuer(tmp_path) as second:
        own = ec.generate_private_key(ec.SECP256R1())
        second.keys = [jwk(own, "own")]
        other = replace(provider, name="other", issuer=second.url, jwks_url=second.jwks_url, ca_file=second.ca_file)
        others = KeySet(other.jwks_url, other.ca_file, clock=_CLOCK)
        others.start()
        try:
            bearer = Bearer([(provider, keys), (other, others)], clock=_CLOCK, trust_domain="certd.test")
            shown = token(second.claims(_NOW), own, "ES256", "own")
            assert bearer.authenticate(shown).principal == "spiffe://certd.test/oidc/other/alice"
            assert "not publish" in _refusal(bearer, token(issuer.claims(_NOW), own, "ES256", "own"))
            assert "not publish" in _refusal(bearer, token(second.claims(_NOW), EC_KEY, "ES256", "ec"))
        finally:
            others.stop()


@pytest.mark.parametrize(
    ("claim", "path"),
    [
        ("alice", "alice"),
        ("repo:example/app:ref:refs/heads/main", "repo_3Aexample/app_3Aref_3Arefs/heads/main"),
        ("a_b", "a_5Fb"),
        ("/", "_/_"),
        ("..", "_2E_2E"),
        ("a/../b", "a/_2E_2E/b"),
        ("a.b", "a.b"),
        ("*", "_2A"),
        ("é", "_C3_A9"),
        ("%2e", "_252e"),
    ],
)
def test_a_claim_becomes_a_path(claim: str, path: str) -> None:
    assert principal_of("certd.test", "ci", claim) == f"spiffe://certd.test/oidc/ci/{path}"


def _claim_of(path: str) -> str:
    """What a path stands for: the way back, which there is only when no two claims have one path."""
    octets = bytearray()
    for index, segment in enumerate(path.split("/")):
        octets += b"/" if index else b""
        if segment == "_":
            continue
        place = 0
        while place < len(segment):
            escaped = segment[place] == "_"
            octets += bytes.fromhex(segment[place + 1 : place + 3]) if escaped else segment[place].encode()
            place += 3 if escaped else 1
    return octets.decode()


@given(
    st.text(alphabet=st.one_of(st.sampled_from("ab./_-*:%5F"), st.characters(exclude_categories=["Cs"])), min_size=1)
)
def test_different_claims_are_different_callers(claim: str) -> None:
    principal = principal_of("certd.test", "ci", claim)
    prefix = "spiffe://certd.test/oidc/ci/"
    assert principal.startswith(prefix)
    assert _claim_of(principal.removeprefix(prefix)) == claim
    if len(principal) <= 2048:
        parse_spiffe_id(principal)


def test_a_certificate_names_no_caller_by_token(world: World) -> None:
    claimed = principal_of(TRUST_DOMAIN, "ci", "alice")
    certificate = world.core.identities.ensure_identity(claimed, new_credential_request().csr).certificate
    with pytest.raises(CertdError) as raised:
        world.core.access.authenticate(certificate)
    assert raised.value.reason is Reason.CREDENTIAL_INVALID
