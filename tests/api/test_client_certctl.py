"""certctl against a server of our own: what it asks, what it prints, how it ends."""

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest

from certd.client.messages import duration
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import ListAuthoritiesResponse
from certd.v1.certificate_pb2 import Certificate
from certd.v1.certificate_service_pb2 import ListCertificatesResponse
from certd.v1.server_service_pb2 import PreparationInfo, ServerInfo, TokenInfo, TrustBundle
from certd.v1.x509_pb2 import AttributeTypeAndValue, DistinguishedName, KeySpec, RelativeDistinguishedName
from certd.v1.x509_pb2 import Warning as ApiWarning
from tests.certctl import CA, Certctl, described, encoded
from tests.fakes_server import Failing, FakeServer, Issued, make_leaf, make_root, running
from tests.waiting import eventually


@pytest.fixture(scope="module")
def server_leaf(root: Issued) -> Issued:
    return make_leaf(root, "localhost")


@pytest.fixture
def fake(root: Issued, server_leaf: Issued) -> Iterator[FakeServer]:
    with running(FakeServer(), server_leaf, root) as server:
        yield server


def test_create_authority_sends_what_the_examples_say(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateAuthority", Authority(name="tenants/default/authorities/web-root", state=Authority.ENABLED))
    ended = certctl(
        *("authority", "create", "web-root", "--type", "root", "--key", "EC_P384"),
        *("--subject", "CN=Example Root,O=Example", "--lifetime", "10y", "--label", "team=web"),
    )
    assert (ended.code, ended.err) == (0, "")
    assert "ENABLED" in ended.out
    (request,) = fake.requests("CreateAuthority")
    assert (request.parent, request.authority_id) == ("tenants/default", "web-root")
    assert request.authority.type == Authority.ROOT
    assert request.authority.key_spec == KeySpec.EC_P384
    assert request.authority.lifetime.ToTimedelta() == timedelta(days=3650)
    assert [
        [(attribute.type, attribute.value) for attribute in rdn.attributes]
        for rdn in request.authority.subject.relative_distinguished_names
    ] == [[("O", "Example")], [("CN", "Example Root")]]
    assert dict(request.authority.labels) == {"team": "web"}
    assert not request.authority.HasField("path_length")
    UUID(request.request_id)


def test_create_subordinate_names_its_issuer_in_full(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("CreateAuthority", Authority(name="tenants/acme/authorities/web-ca"))
    given = "0b2f3e0a-6f0c-4c8e-9d53-0f3f4d6f7a11"
    ended = certctl(
        *("authority", "create", "web-ca", "--type", "subordinate", "--issuer", "web-root", "--subject", "CN=CA"),
        *("--path-length", "0", "--tenant", "acme", "--request-id", given, "--validate-only"),
    )
    assert ended.code == 0
    assert "nothing was changed" in ended.err
    (request,) = fake.requests("CreateAuthority")
    assert request.authority.issuer == "tenants/acme/authorities/web-root"
    assert request.authority.path_length == 0
    assert request.authority.HasField("path_length")
    assert (request.request_id, request.validate_only) == (given, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("authority", "create", "a", "--type", "subordinate", "--subject", "CN=a", "--out", "a.pem"),
        ("authority", "create", "a", "--type", "root", "--subject", "CN=a", "--permit-directory", "no equals sign"),
        ("authority", "activate", "a", "--certificate", "-", "--chain", "-"),
        ("authority", "activate", "a", "--certificate", "c.pem"),
        ("authority", "update", "a"),
        ("authority", "update", "a", "--label", "a=b", "--no-labels"),
        ("authority", "enable"),
        ("authority", "create", "a", "--type", "root", "--issuer", "b", "--subject", "CN=a"),
        ("authority", "create", "a", "--type", "root", "--subject", "no equals sign"),
        ("authority", "create", "a", "--type", "root", "--subject", "CN=a", "--lifetime", "soon"),
        ("authority", "create", "a", "--type", "root", "--subject", "CN=a", "--key", "RSA_512"),
        ("authority", "create", "a", "--type", "root", "--subject", "CN=a", "--request-id", "7"),
        ("certificate", "get", "0a1b"),
        (
            "certificate",
            "issue",
            "--authority",
            "a",
            "--csr",
            "-",
            "--lifetime",
            "1d",
            "--not-after",
            "2027-01-01T00:00:00Z",
        ),
        ("managed", "request", "web", "--authority", "a"),
        ("managed", "export", "web", "--passphrase-file", "x", "--passphrase", "secret"),
        ("completion", "tcsh"),
        ("no-such-noun",),
        (),
    ],
)
def test_wrong_usage_ends_with_2_and_asks_nothing(
    fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...]
) -> None:
    ended = certctl(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage:" in ended.err
    as_json = certctl(*arguments, "-o", "json")
    assert as_json.code == 2
    assert json.loads(as_json.err)["reason"] == "USAGE"
    assert not fake.calls


def test_a_failure_is_one_line_with_its_remedy(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "GetAuthority",
        Failing(
            code=grpc.StatusCode.NOT_FOUND,
            reason="AUTHORITY_NOT_FOUND",
            message="there is no authority web-ca; see certctl authority list",
            violations=[("name", "names nothing")],
            metadata={"hint": "look"},
            resource=CA,
        ),
    )
    ended = certctl("authority", "get", "web-ca")
    line = "certctl: AUTHORITY_NOT_FOUND: there is no authority web-ca; see certctl authority list\n"
    assert (ended.code, ended.out, ended.err) == (1, "", line)
    verbose = certctl("authority", "get", "web-ca", "-v")
    assert verbose.err.startswith(line)
    for detail in ("NOT_FOUND", CA, "names nothing", "look"):
        assert detail in verbose.err.removeprefix(line)


def test_a_failure_under_json_is_one_object(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "CreateAuthority",
        Failing(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="FIELD_INVALID",
            message="authority.subject: is empty",
            violations=[("authority.subject", "is empty")],
        ),
    )
    ended = certctl("-o", "json", "authority", "create", "a", "--type", "root", "--subject", "CN=a")
    assert (ended.code, ended.out) == (1, "")
    failure = json.loads(ended.err)
    assert set(failure) == {"reason", "message", "metadata", "violations"}
    assert failure["reason"] == "FIELD_INVALID"
    assert failure["violations"] == [{"field": "authority.subject", "description": "is empty"}]
    assert failure["metadata"]["request_id"] == fake.requests("CreateAuthority")[0].request_id


def test_no_credentials_is_a_failure_that_names_the_file(certctl: Certctl, tmp_path: Path) -> None:
    (tmp_path / "home" / ".config" / "certd" / "client.key").unlink()
    ended = certctl("authority", "list")
    assert ended.code == 1
    assert ended.err.startswith("certctl: CREDENTIAL_MISSING: ")
    assert "client.key" in ended.err


def test_lists_follow_pages_and_show_days_left(fake: FakeServer, certctl: Certctl) -> None:
    pages = (
        ListAuthoritiesResponse(
            authorities=[Authority(name=CA, state=Authority.ENABLED, description=described())], next_page_token="2"
        ),
        ListAuthoritiesResponse(authorities=[Authority(name=CA + "-2", description=described(-3))]),
    )
    fake.answer("ListAuthorities", *pages)
    ended = certctl("authority", "list")
    header, first, second = ended.out.splitlines()
    assert header.endswith("DAYS LEFT")
    assert first.split()[0] == "web-ca"
    assert first.endswith("89")
    assert second.endswith("expired")
    fake.answer("ListAuthorities", *pages)
    lines = [json.loads(line) for line in certctl("authority", "list", "-o", "json").out.splitlines()]
    assert [line["name"] for line in lines] == [CA, CA + "-2"]


def test_pem_prints_one_certificate_alone(fake: FakeServer, certctl: Certctl, root: Issued) -> None:
    fake.answer("GetAuthority", Authority(name=CA, certificate=encoded(root), chain=[encoded(root)]))
    assert certctl("authority", "get", "web-ca", "-o", "pem").out == root.certificate_pem.decode()


def test_issue_sends_the_csr_and_writes_leaf_and_chain(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path
) -> None:
    leaf = make_leaf(root, "www.example.internal")
    fake.answer(
        "IssueCertificate",
        Certificate(
            name=f"{CA}/certificates/0a1b",
            state=Certificate.ISSUED,
            certificate=encoded(leaf),
            chain=[encoded(root)],
            description=described(),
            warnings=[ApiWarning(field="csr.extensions", message="2.5.29.99 was dropped")],
        ),
    )
    csr, out, chain = tmp_path / "req.pem", tmp_path / "leaf.pem", tmp_path / "chain.pem"
    csr.write_bytes(b"a request")
    arguments = ("certificate", "issue", "--authority", "web-ca", "--csr", csr, "--profile", "server")
    ended = certctl(*arguments, "--lifetime", "90d", "--out", out, "--chain-out", chain)
    assert ended.code == 0
    assert ended.err == "certctl: warning: csr.extensions: 2.5.29.99 was dropped\n"
    assert "(89 days left)" in ended.out
    assert (out.read_bytes(), chain.read_bytes()) == (leaf.certificate_pem, root.certificate_pem)
    (request,) = fake.requests("IssueCertificate")
    assert (request.parent, request.profile, request.csr) == (CA, "tenants/default/profiles/server", b"a request")
    assert request.lifetime.ToTimedelta() == timedelta(days=90)
    as_json = certctl(*arguments, "--not-after", "2027-01-31T12:00:00Z", "-o", "json")
    assert as_json.err == ""
    assert json.loads(as_json.out)["warnings"][0]["field"] == "csr.extensions"
    assert fake.requests("IssueCertificate")[1].not_after_time.ToJsonString() == "2027-01-31T12:00:00Z"


def test_a_validated_certificate_is_not_written(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path
) -> None:
    fake.answer("IssueCertificate", Certificate(certificate=encoded(root), description=described()))
    csr, out = tmp_path / "req.pem", tmp_path / "leaf.pem"
    csr.write_bytes(b"a request")
    ended = certctl("certificate", "issue", "--authority", "a", "--csr", csr, "--validate-only", "--out", out)
    assert ended.code == 0
    assert not out.exists()
    assert fake.requests("IssueCertificate")[0].validate_only


def test_a_check_shows_nothing_that_could_be_looked_for(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path
) -> None:
    made_up = Authority(
        name=CA,
        uid="0badc0de",
        state=Authority.AWAITING_CERTIFICATE,
        subject=DistinguishedName(
            relative_distinguished_names=[
                RelativeDistinguishedName(attributes=[AttributeTypeAndValue(type="CN", value="Example, Inc.")])
            ]
        ),
        lifetime=duration(timedelta(days=10 * 365)),
        key=Authority.Key(number=1, key_id="0badc0de"),
    )
    fake.answer("CreateAuthority", made_up)
    arguments = ("authority", "create", "web-ca", "--type", "root", "--subject", "CN=x", "--validate-only")
    checked = certctl(*arguments)
    assert checked.code == 0
    assert "CN=Example\\, Inc." in checked.out
    assert "10y" in checked.out
    csr = tmp_path / "req.pem"
    csr.write_bytes(b"a request")
    description = described()
    description.serial_number = "0badc0de"
    fake.answer("IssueCertificate", Certificate(certificate=encoded(root), description=description))
    issued = certctl("certificate", "issue", "--authority", "a", "--csr", csr, "--validate-only")
    assert issued.code == 0
    for invented in ("0badc0de", "AWAITING_CERTIFICATE", "STATE_UNSPECIFIED", "Created"):
        assert invented not in checked.out + issued.out


@pytest.mark.parametrize("option", ["--out", "--chain-out"])
def test_where_nothing_can_be_written_nothing_is_issued(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, option: str
) -> None:
    csr = tmp_path / "req.pem"
    csr.write_bytes(b"a request")
    ended = certctl("certificate", "issue", "--authority", "a", "--csr", csr, option, tmp_path / "no" / "leaf.pem")
    assert ended.code == 1
    assert "leaf.pem cannot be written: there is no directory" in ended.err
    assert not fake.calls


def test_every_violation_is_told(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "GetAuthority",
        Failing(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="NAME_NOT_ALLOWED",
            message="dns_names[0]: 'a_b' has a label (and 1 more)",
            violations=[("dns_names[0]", "'a_b' has a label"), ("dns_names[1]", "'c_d' has a label")],
        ),
    )
    assert "'c_d'" in certctl("authority", "get", "web-ca").err


@pytest.mark.usefixtures("certctl")
def test_a_port_without_tls_is_called_what_it_is() -> None:
    class Refusal(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusal) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"127.0.0.1:{server.server_address[1]}"
            with start_program("--address", address, "--timeout", "4s", "-v", "server", "info") as program:
                _, told = program.communicate(timeout=60)
        finally:
            server.shutdown()
            thread.join()
    assert program.returncode == 1
    lines = [line for line in told.decode().splitlines() if not line.endswith("…")]
    assert f"{address} does not speak TLS, so it is not the API" in lines[0]
    # What was told is not told again with every try, and nothing else is told at all.
    again = [line for line in lines if line.startswith("certctl: the same; trying again in ")]
    assert lines[1 : 1 + len(again)] == again
    assert sum("does not speak TLS" in line for line in lines) == 2
    assert all(line.startswith(("certctl: ", "  ")) for line in lines)


def test_grpc_is_loaded_only_to_call() -> None:
    # main() silences it before: what it logs would stand between the answers.
    code = "import certd.cli.certctl, sys; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_certificates_are_listed_up_to_the_limit(fake: FakeServer, certctl: Certctl) -> None:
    certificates = [Certificate(name=f"{CA}/certificates/0{n}", description=described()) for n in range(4)]
    fake.answer("ListCertificates", ListCertificatesResponse(certificates=certificates, next_page_token="more"))
    ended = certctl("certificate", "list", "--limit", "3")
    assert [line.split()[0] for line in ended.out.splitlines()] == ["SERIAL", "00", "01", "02"]
    assert "a.example, b.example and 1 more" in ended.out
    (request,) = fake.requests("ListCertificates")
    assert (request.parent, request.page_size) == ("tenants/default/authorities/-", 3)


def test_a_lost_certificate_has_no_validity(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer("GetCertificate", Certificate(name=f"{CA}/certificates/0a", state=Certificate.LOST))
    ended = certctl("certificate", "get", "0A", "--authority", "web-ca")
    assert ended.code == 0
    assert "LOST" in ended.out
    assert fake.requests("GetCertificate")[0].name == f"{CA}/certificates/0A"
    assert certctl("certificate", "get", "0A", "--authority", "web-ca", "-o", "pem").code == 2


def test_server_info_says_how_far_the_token_is_kept_apart(fake: FakeServer, certctl: Certctl) -> None:
    fake.answer(
        "GetServerInfo",
        ServerInfo(version="9.9", isolation=ServerInfo.SAME_USER, token=TokenInfo(label="certd", ready=True)),
    )
    ended = certctl("server", "info")
    assert ended.code == 0
    assert "SAME_USER" in ended.out
    assert json.loads(certctl("server", "info", "-o", "json").out)["isolation"] == "SAME_USER"
    assert certctl("server", "info", "-o", "pem").code == 2


@pytest.mark.parametrize(
    ("preparation", "told"),
    [
        (PreparationInfo(), "in the daemon"),
        (PreparationInfo(configured_processes=2, ready_processes=2), "2 of 2 processes ready"),
        (
            PreparationInfo(configured_processes=2, ready_processes=1, problem="it is starting"),
            "1 of 2 processes ready: it is starting",
        ),
    ],
)
def test_server_info_says_what_prepares(
    fake: FakeServer, certctl: Certctl, preparation: PreparationInfo, told: str
) -> None:
    fake.answer("GetServerInfo", ServerInfo(preparation=preparation))
    assert told in certctl("server", "info").out


def test_the_trust_bundle_for_relying_parties_has_no_system_root(
    fake: FakeServer, certctl: Certctl, root: Issued
) -> None:
    system = make_root("System Root")
    bundle = TrustBundle(system_roots=[encoded(system)], tenant_roots=[encoded(root)])
    fake.answer("GetTrustBundle", bundle)
    assert certctl("server", "trust-bundle", "-o", "pem").out == root.certificate_pem.decode()
    table = certctl("server", "trust-bundle").out
    assert "CN=System Root" in table
    assert "CN=Test Root" in table
    assert [request.tenant for request in fake.requests("GetTrustBundle")] == ["tenants/default"] * 2
    fake.answer("GetTrustBundle", TrustBundle(system_roots=[encoded(system)]))
    ended = certctl("server", "trust-bundle", "-o", "pem", "--roots", "system")
    assert ended.out == system.certificate_pem.decode()
    assert fake.requests("GetTrustBundle")[-1].tenant == ""


def test_flags_before_the_verb_choose_the_server(fake: FakeServer, certctl: Certctl, tmp_path: Path) -> None:
    fake.answer("GetServerInfo", ServerInfo(version="9.9"))
    settings = tmp_path / "home" / ".config" / "certd" / "certctl.toml"
    other = tmp_path / "home" / ".config" / "certd" / "other.toml"
    other.write_text(settings.read_text().replace(fake.address, "localhost:1"))
    assert certctl("--config", other, "--address", fake.address, "server", "info").code == 0
    assert certctl("--config", other, "--timeout", "300ms", "server", "info").code == 2
    ended = certctl("--config", other, "server", "info", "--timeout", "1s")
    assert ended.code == 1
    assert "localhost:1" in ended.err


def start_program(*arguments: str, stderr: Any = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    code = "from certd.cli.certctl import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=stderr)


@pytest.mark.usefixtures("certctl")
def test_a_slow_call_shows_what_runs(fake: FakeServer, tmp_path: Path) -> None:
    log = tmp_path / "stderr"

    def answer(_: Any, __: grpc.ServicerContext) -> ServerInfo:
        eventually(log.read_text)
        return ServerInfo(version="9.9")

    fake.answer("GetServerInfo", answer)
    with log.open("wb") as stderr, start_program("server", "info", stderr=stderr) as program:
        assert program.wait(30) == 0
    assert log.read_text() == "certctl: asking the server …\n"


@pytest.mark.usefixtures("certctl")
def test_a_reader_that_goes_away_is_no_accident(fake: FakeServer) -> None:
    names = [Authority(name=f"{CA}-{number}") for number in range(5000)]
    fake.answer("ListAuthorities", ListAuthoritiesResponse(authorities=names))
    with start_program("authority", "list", "-o", "json") as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        assert program.wait(30) == 1
        assert program.stderr.read() == b""


@pytest.mark.parametrize(
    ("words", "expected"),
    [("certctl man", "managed"), ("certctl managed ex", "export"), ("certctl authority create --ty", "--type")],
)
def test_the_shell_is_told_how_words_go_on(words: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CERTCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with start_program() as program:
        out, _ = program.communicate(timeout=30)
    assert out.decode().split() == [f"plain,{expected}"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(certctl: Certctl, shell: str) -> None:
    ended = certctl("completion", shell)
    assert ended.code == 0
    assert "_CERTCTL_COMPLETE" in ended.out


def test_every_command_has_examples_in_its_help(certctl: Certctl) -> None:
    from certd.cli.certctl import cli  # The tree of commands itself, to miss none.

    def walk(command: Any, path: tuple[str, ...]) -> None:
        if not hasattr(command, "commands"):
            ended = certctl(*path, "--help")
            assert ended.code == 0
            assert "Examples:" in ended.out, path
            return
        for name, inner in command.commands.items():
            walk(inner, (*path, name))

    walk(cli, ())


def test_version_is_printed(certctl: Certctl) -> None:
    ended = certctl("--version")
    assert ended.code == 0
    assert ended.out.startswith("certctl, version ")
