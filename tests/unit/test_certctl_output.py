from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from certd.cli.certctl import output
from certd.client.messages import enum_text, timestamp
from certd.v1.authority_pb2 import Authority
from certd.v1.x509_pb2 import CertificateDescription, EncodedCertificate, SubjectAlternativeNames


def test_a_card_has_two_columns_and_leaves_out_what_is_empty() -> None:
    assert output.format_card([("Name", "a"), ("Labels", ""), ("Long label", "b\nc")]) == (
        "Name        a\nLong label  b\n            c"
    )


def test_a_table_is_aligned_under_its_header() -> None:
    assert output.format_table(("NAME", "STATE"), [("long-name", "X"), ("b", "")]) == [
        "NAME       STATE",
        "long-name  X",
        "b          -",
    ]


def test_control_characters_of_strangers_do_not_reach_the_terminal() -> None:
    assert output.printable("a\x1b[2Jb\x07") == "a\\x1b[2Jb\\x07"
    assert output.printable("größe\u202e") == "größe\\u202e"
    assert "\x1b" not in output.format_card([("Subject", "CN=\x1b]0;x\x07")])
    assert "\x1b" not in "".join(output.format_table(("A",), [("\x1b[1m",)]))


def test_a_list_of_pages_has_one_header(capsys: pytest.CaptureFixture[str]) -> None:
    pages = [[Authority(name="a")], [Authority(name="b")], []]
    output.print_pages(pages, output.Format.TABLE, header=("NAME",), row=lambda a: (a.name,), pem=lambda _: "")
    assert capsys.readouterr().out == "NAME\na\nb\n"


def test_an_empty_list_shows_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_pages([[]], output.Format.TABLE, header=("NAME",), row=lambda _: ("",), pem=lambda _: "")
    assert capsys.readouterr().out == "NAME\n"


def test_a_list_under_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    pages = [[Authority(name="a", labels={"k": "v"}), Authority(name="b")]]
    output.print_pages(pages, output.Format.JSON, header=(), row=lambda _: (), pem=lambda _: "")
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("{") and line.endswith("}") for line in lines] == [True, True]


def test_a_list_under_pem_has_every_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    pages = [
        [Authority(certificate=EncodedCertificate(pem="A\n"))],
        [Authority(certificate=EncodedCertificate(pem="B\n"))],
    ]
    output.print_pages(pages, output.Format.PEM, header=(), row=lambda _: (), pem=lambda a: a.certificate.pem)
    assert capsys.readouterr().out == "A\nB\n"


def test_validity_says_how_long() -> None:
    end = datetime.now(UTC) + timedelta(days=5, hours=1)
    rows = dict(output.validity_rows(CertificateDescription(not_after_time=timestamp(end))))
    assert rows["Not after"].endswith("Z (5 days left)")
    past = CertificateDescription(not_after_time=timestamp(datetime(2020, 1, 1, tzinfo=UTC)))
    assert dict(output.validity_rows(past))["Not after"] == "2020-01-01T00:00:00Z (expired)"
    assert dict(output.validity_rows(CertificateDescription()))["Not after"] == ""


def test_a_time_that_is_not_set_is_empty() -> None:
    assert output.time_text(Timestamp()) == ""


def test_names_show_their_kind() -> None:
    names = SubjectAlternativeNames(
        dns_names=["a.example"], ip_addresses=["10.0.0.1"], uris=["spiffe://a/b"], email_addresses=["a@b.example"]
    )
    assert output.names_text(names) == "a.example, IP:10.0.0.1, URI:spiffe://a/b, email:a@b.example"


def test_a_state_of_a_newer_server_shows_its_number() -> None:
    assert enum_text(Authority(state=Authority.ENABLED), "state") == "ENABLED"
    newer = Authority.FromString(b"\x20\x63")
    assert enum_text(newer, "state") == "99"
