"""What of the configuration is handed to HAProxy and Envoy."""

from pathlib import Path

import pytest

from certd.agent import config
from certd.agent.errors import NotTakenYetError
from certd.agent.findings import findings
from certd.agent.haproxy import HAProxyTarget
from certd.agent.targets import EnvoyTarget, Targets
from certd.errors import CertdError
from tests.agent.bundles import Minter
from tests.agent.secret_client import SecretStream
from tests.waiting import eventually

_TOP = 'server = "ca.example.internal:8443"\n'
_WEB = '[[certificate]]\nname = "web"\nassociation = "tenants/default/managedCertificates/web/associations/web-1"\n'
_COMBINED = '[[certificate.file]]\npath = "web.pem"\nformat = "combined"\n'
_HAPROXY = '[certificate.haproxy]\nsocket = "/run/haproxy/admin.sock"\ncertificate = "@store/web.pem"\n'
_SDS = '[sds]\nsocket = "sds.sock"\n'


def read(folder: Path, text: str) -> config.Config:
    path = folder / "agent.toml"
    path.write_text(_TOP + f'state_directory = "{folder}/state"\n' + text)
    return config.load(path)


def problems(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(CertdError) as refused:
        read(folder, text)
    return {each.field: each.description for each in refused.value.violations}


def test_each_certificate_has_the_targets_that_it_names(tmp_path: Path) -> None:
    text = _SDS + _WEB + "sds = true\n" + _COMBINED + _HAPROXY + _WEB.replace("web", "api")
    found = read(tmp_path, text)
    assert found.sds == config.Sds(socket=tmp_path / "sds.sock", mode=0o600, timeout=10.0)
    web, api = found.certificates
    assert web.haproxy == config.HAProxy(socket="/run/haproxy/admin.sock", certificate="@store/web.pem", timeout=10.0)
    targets = Targets(found)
    assert [type(each) for each in targets.of(web)] == [HAProxyTarget, EnvoyTarget]
    assert targets.of(api) == ()
    assert findings(found)[-1].field == "certificate.1.file"


def test_nothing_listens_without_a_certificate_that_says_so(tmp_path: Path) -> None:
    targets = Targets(read(tmp_path, _WEB + _COMBINED))
    targets.start()
    targets.stop()
    assert "no certificate is served there" in problems(tmp_path, _SDS + _WEB)["sds"]
    assert "there is no [sds]" in problems(tmp_path, _WEB + "sds = true\n")["certificate.0.sds"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (_SDS + 'mode = "0666"\n' + _WEB + "sds = true\n", "sds.mode"),
        (_SDS + "timeout = 0\n" + _WEB + "sds = true\n", "sds.timeout"),
        (_SDS.replace("socket", "path") + _WEB + "sds = true\n", "sds.socket"),
        (_WEB + 'sds = "yes"\n', "certificate.0.sds"),
        (_WEB + _COMBINED + _HAPROXY.replace("/run/haproxy/admin.sock", "admin.sock"), "certificate.0.haproxy.socket"),
        (
            _WEB + _COMBINED + _HAPROXY.replace("@store/web.pem", "web.pem; show info"),
            "certificate.0.haproxy.certificate",
        ),
        (_WEB + _COMBINED + _HAPROXY.replace("@store/web.pem", "a\\\\nb"), "certificate.0.haproxy.certificate"),
        (_WEB + _COMBINED + _HAPROXY + "level = 1\n", "certificate.0.haproxy.level"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    assert key in problems(tmp_path, text)


def test_what_this_machine_lacks_is_a_finding(tmp_path: Path) -> None:
    found = read(tmp_path, _SDS + 'group = "no-such-group"\n' + _WEB + "sds = true\n" + _HAPROXY)
    assert {each.field for each in findings(found)} >= {"sds.group", "certificate.0.haproxy"}


def test_the_agent_is_woken_when_an_envoy_came(tmp_path: Path) -> None:
    found = read(tmp_path, _SDS + _WEB + "sds = true\n")
    woken: list[str] = []
    targets, bundle = Targets(found, wake=woken.append), Minter().bundle()
    (target,) = targets.of(found.certificates[0])
    targets.start()
    try:
        with pytest.raises(NotTakenYetError):
            target.deploy(bundle)
        with SecretStream(tmp_path / "sds.sock", delta=True) as stream:
            stream.ask("web")
            stream.take()
            assert eventually(lambda: woken) == ["web"]
            target.deploy(bundle)
        target.restore(bundle)
    finally:
        targets.stop()
