"""Has OCSP answers signed, many in one frame of the token, and puts them together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from certd.errors import CertdError
from certd.model.certificate import CertificateState
from certd.model.names import serial_text
from certd.pki import der
from certd.pki.ocsp_identifiers import CertId, HashAlgorithm
from certd.pki.ocsp_response import (
    SingleAnswer,
    State,
    Status,
    cert_id,
    response_data,
    signed_response,
    successful_response,
)
from certd.services.ocsp_keys import AUTHORITY, Answering, AnsweringKey, responder_key_hash
from certd.services.ocsp_memory import Answer
from certd.store.ocsp_responses import Standing, StoredAnswer
from certd.token.client import SignItem, TokenClient
from certd.token.policy import SignatureKind

CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""What begins so much later than now was signed while a clock was ahead, and nobody accepts it."""
_SIGN_TIMEOUT: Final = 10.0
"""Seconds for a frame, and one more for each signature: slow tokens make a few in a second."""
_HIGHEST_SERIAL: Final = 1 << 160
"""No certificate has one that is longer (RFC 5280, section 4.1.2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An answer that is to be signed."""

    key: AnsweringKey
    answers: tuple[SingleAnswer, ...]
    nonce: bytes | None
    this_update: datetime
    next_update: datetime

    def response_data(self) -> bytes:
        """Returns the DER of the ResponseData."""
        return response_data(
            responder_key_hash=responder_key_hash(self.key),
            produced_at=self.this_update,
            next_update=self.next_update,
            answers=self.answers,
            nonce=self.nonce,
        )


def draft_of(
    answering: Answering,
    key: AnsweringKey,
    answers: Sequence[SingleAnswer],
    *,
    nonce: bytes | None,
    now: datetime,
) -> Draft:
    """Returns an answer that begins now, to the second, and holds as long as it may."""
    begin = now.replace(microsecond=0)
    return Draft(
        key=key,
        answers=tuple(answers),
        nonce=nonce,
        this_update=begin,
        next_update=min(begin + answering.lifetime, key.not_after),
    )


def single_answer(answering: Answering, asked: CertId, standing: Standing | None) -> SingleAnswer:
    """Returns what is said of a certificate, named as it was asked for."""
    authority = answering.authority
    named = cert_id(
        asked.algorithm,
        issuer_name=authority.subject,
        issuer_key=authority.key.public_key or b"",
        serial=asked.serial,
    )
    return SingleAnswer(named, status_of(standing))


def standing_answer(answering: Answering, standing: Standing) -> SingleAnswer:
    """Returns what is said of a certificate in the books, named by SHA-1 as RFC 5019, section 2.1.1, prescribes."""
    asked = CertId(HashAlgorithm.SHA1, b"", b"", int(standing.serial, 16))
    return single_answer(answering, asked, standing)


def status_of(standing: Standing | None) -> Status:
    """Returns what is said of a certificate; None: the key has never issued it. Of one that is pending, nothing is."""
    if standing is None:
        return Status(State.UNKNOWN)
    if standing.state is CertificateState.ISSUED:
        return Status(State.GOOD)
    # Nobody received one that is LOST, and it has no reason.
    return Status(State.REVOKED, standing.revoke_time, standing.reason)


def serial_of(asked: CertId) -> str | None:
    """Returns the serial number as the books have it; None for one that no certificate can have."""
    return serial_text(asked.serial) if 0 < asked.serial < _HIGHEST_SERIAL else None


def sign(token: TokenClient, drafts: Sequence[Draft]) -> list[StoredAnswer | CertdError]:
    """Signs; returns an answer or a failure for each, in order. Raises when the whole frame failed."""
    contents = [draft.response_data() for draft in drafts]
    items = [
        SignItem(
            key_id=draft.key.key_id,
            policy=draft.key.policy,
            kind=SignatureKind.OCSP_RESPONSE,
            signature_algorithm=draft.key.signature_algorithm,
            to_be_signed=content,
        )
        for draft, content in zip(drafts, contents, strict=True)
    ]
    results = token.sign(items, timeout=_SIGN_TIMEOUT + len(items))
    return [
        result
        if isinstance(result, CertdError)
        else StoredAnswer(
            draft.key.number,
            signed_response(content, draft.key.signature_algorithm, result),
            draft.this_update,
            draft.next_update,
        )
        for draft, content, result in zip(drafts, contents, results, strict=True)
    ]


def answer_of(answering: Answering, signed: StoredAnswer, *, cacheable: bool) -> Answer | None:
    """Returns an answer as it is sent; None when the certificate of its responder is gone."""
    certificate = answering.certificates.get(signed.responder_number)
    if certificate is None and signed.responder_number != AUTHORITY:
        return None
    back = b"" if certificate is None else _certificates(certificate)
    whole = successful_response(signed.der, () if certificate is None else (certificate,))
    return Answer(
        front=whole[: len(whole) - len(back)],
        back=back,
        this_update=signed.this_update if cacheable else None,
        next_update=signed.next_update if cacheable else None,
        entity_tag=f'"{hashlib.sha256(whole).hexdigest()[:32]}"' if cacheable else "",
    )


@lru_cache(maxsize=4096)
def _certificates(certificate: bytes) -> bytes:
    """Returns the end of a response, the same object for all of one responder."""
    return der.encode(der.context(0), der.sequence(certificate))
