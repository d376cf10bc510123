"""Our messages are Envoy's, as far as they go: each field has the number, type and label that the originals have."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from certd.agent.sds_subscription import TYPE_URL
from certd.envoy import secrets_pb2
from tests.agent.secret_client import SERVICE

ORIGINALS = {
    "Node": "envoy.config.core.v3.Node",
    "Status": "google.rpc.Status",
    "DiscoveryRequest": "envoy.service.discovery.v3.DiscoveryRequest",
    "DiscoveryResponse": "envoy.service.discovery.v3.DiscoveryResponse",
    "DeltaDiscoveryRequest": "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    "DeltaDiscoveryResponse": "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    "Resource": "envoy.service.discovery.v3.Resource",
    "Secret": "envoy.extensions.transport_sockets.tls.v3.Secret",
    "TlsCertificate": "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
    "CertificateValidationContext": "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
    "DataSource": "envoy.config.core.v3.DataSource",
}

# In a process of its own: the package of Envoy's messages lies over others of ours.
_TELL = """
import json, sys
from envoy.service.secret.v3 import sds_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
pool = descriptor_pool.Default()
def form(field):
    return [field.number, field.type, field.is_repeated, field.message_type and field.message_type.full_name]
print(json.dumps({
    "messages": {
        name: {field.name: form(field) for field in pool.FindMessageTypeByName(name).fields} for name in sys.argv[1:]
    },
    "methods": {
        method.full_name: [method.input_type.full_name, method.output_type.full_name]
        for method in sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"].methods
    },
}))
"""


def originals() -> Any:
    place = Path(sys.prefix) / "envoy-messages"
    assert place.is_dir(), "Envoy's messages are not installed; run scripts/test once, which installs them"
    told = subprocess.run(
        [sys.executable, "-c", _TELL, *ORIGINALS.values()],
        env={**os.environ, "PYTHONPATH": str(place)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return json.loads(told.stdout)


def form(field: FieldDescriptor) -> list[object]:
    message = field.message_type and field.message_type.full_name
    if message and message.startswith("certd.envoy."):
        name = message.removeprefix("certd.envoy.")
        outer, _, inner = name.partition(".")
        message = f"{ORIGINALS[outer]}.{inner}" if inner else ORIGINALS[outer]
    return [field.number, field.type, field.is_repeated, message]


def test_every_field_is_that_of_the_original() -> None:
    told = originals()
    ours = secrets_pb2.DESCRIPTOR.message_types_by_name
    assert set(ours) == ORIGINALS.keys()
    for name, message in ours.items():
        original = told["messages"][ORIGINALS[name]]
        assert {field.name: form(field) for field in message.fields} == {
            field.name: original.get(field.name) for field in message.fields
        }
    assert f"type.googleapis.com/{ORIGINALS['Secret']}" == TYPE_URL
    service = SERVICE.removeprefix("/")
    assert told["methods"] == {
        f"{service}.StreamSecrets": [ORIGINALS["DiscoveryRequest"], ORIGINALS["DiscoveryResponse"]],
        f"{service}.FetchSecrets": [ORIGINALS["DiscoveryRequest"], ORIGINALS["DiscoveryResponse"]],
        f"{service}.DeltaSecrets": [ORIGINALS["DeltaDiscoveryRequest"], ORIGINALS["DeltaDiscoveryResponse"]],
    }
