"""nginx: new workers by a reload, the old ones end what they serve."""

from pathlib import Path

from certd.v1.managed_certificate_pb2 import Deployment
from tests.recipes.agents import agent
from tests.recipes.clients import answer, comes, connect, knocking, over_http, shown, shown_anew
from tests.recipes.estate import HOST, Estate
from tests.recipes.programs import find_program, free_port, serving
from tests.recipes.recipe import adapted, block
from tests.waiting import eventually

_MAIN = """
daemon off;
worker_processes 2;
pid {place}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/nginx-body;
    root {place}/html;
    include {place}/web.conf;
}}
"""


def configure(place: Path, port: int) -> tuple[str, Path]:
    """Writes what the README has for nginx and returns that for the agent, and nginx's main file."""
    nginx, folder, main = find_program("nginx"), place / "web", place / "nginx.conf"
    (place / "html").mkdir()
    (place / "html" / "index.html").write_text("served\n")
    own = block("/etc/nginx/conf.d/web.conf")
    (place / "web.conf").write_text(adapted(own, {"/etc/ssl/web": str(folder), "443": f"127.0.0.1:{port}"}))
    main.write_text(_MAIN.format(place=place))
    changes = {
        "/etc/ssl/web": str(folder),
        ":443": f":{port}",
        '"nginx"': f'"{nginx}", "-p", "{place}", "-c", "{main}"',
    }
    return adapted(block("/etc/certd-agent/agent.toml: nginx"), changes), main


def test_a_renewed_certificate_is_served_and_no_connection_is_dropped(estate: Estate, place: Path) -> None:
    port = free_port()
    text, main = configure(place, port)
    with agent(estate, place, text) as running:
        # The files are there before nginx can be.
        failed = estate.reported(Deployment.FAILED)
        assert "nginx.pid" in failed.message
        with serving([find_program("nginx"), "-p", place, "-c", main], port=port, folder=place):
            running.again()
            assert estate.reported(Deployment.SERVING).version == failed.version
            first = estate.current().certificate.der
            assert shown_anew(port, estate.root) == first
            with knocking(lambda: over_http(port, estate.root)) as knocks, connect(port, estate.root) as held:
                held.sendall(b"GET / HTTP/1.1\r\n")
                second = estate.renew().certificate.der
                assert estate.reported(Deployment.SERVING).certificate_sha256
                comes(port, estate.root, second)
                eventually(lambda: knocks.has_seen(second))
                held.sendall(f"Host: {HOST}\r\n\r\n".encode())
                assert answer(held) == b"served\n"
                assert shown(held) == first
            assert knocks.has_seen(first)
            # A configuration that nginx does not take keeps the old one, until it is mended.
            with (place / "web.conf").open("a") as conf:
                conf.write("nonsense;\n")
            third = estate.renew().certificate.der
            failed = estate.reported(Deployment.FAILED)
            assert 'unknown directive "nonsense"' in failed.message
            assert shown_anew(port, estate.root) == second
            (place / "web.conf").write_text((place / "web.conf").read_text().removesuffix("nonsense;\n"))
            running.again()
            estate.reported(Deployment.SERVING)
            comes(port, estate.root, third)
