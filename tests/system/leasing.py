"""Leases against a daemon that runs as a process, by its first administrator."""

from collections.abc import Iterable

from google.protobuf import json_format

from certd.client.connection import Client
from certd.client.credentials import Credentials, read_credentials
from certd.client.lease import lease
from certd.v1.association_pb2 import Association
from tests.daemon import RunningDaemon
from tests.system.calls import must


def credentials_of_administrator(daemon: RunningDaemon) -> Credentials:
    made = daemon.installation
    return read_credentials(certificate=made.certificate, private_key=made.private_key, trust_bundle=made.trust_bundle)


def leased_keys(daemon: RunningDaemon, managed: Iterable[str]) -> dict[str, bytes]:
    """Associates the administrator with managed certificates; returns their keys (PKCS#8 DER), leased twice each."""
    credentials, keys = credentials_of_administrator(daemon), {}
    with Client(daemon.grpc, credentials) as client:
        for name in managed:
            answer = must(daemon, "association", "create", name, "identities/admin", "-o", "json")
            association = json_format.Parse(answer, Association())
            first, second = (lease(client, association, 1, credentials).private_key_info for _ in range(2))
            assert first == second
            keys[name] = first
    return keys
