"""mbedTLS, which small devices have, accepts every chain of keys that it knows: those of EC and RSA."""

from pathlib import Path

import pytest

from certd.pki.key_spec import KeySpec
from tests.interop.hierarchy import HOST, WILDCARD_HOST, Hierarchy
from tests.interop.mbedtls import judged


@pytest.mark.parametrize("host", [HOST, WILDCARD_HOST])
def test_mbedtls_verifies_every_chain(mbedtls: Path, hierarchy: Hierarchy, host: str) -> None:
    if hierarchy.key_spec is KeySpec.ED25519:
        pytest.skip("mbedTLS knows no Ed25519")
    leaves = [leaf for spec, leaf in hierarchy.leaves.items() if spec is not KeySpec.ED25519]
    leaves.append(hierarchy.exported.certificate)
    assert judged(mbedtls, hierarchy.root, hierarchy.subordinate, leaves, host=host) == ["good"] * len(leaves)


def test_mbedtls_reads_no_key_of_ed25519(mbedtls: Path, hierarchy: Hierarchy) -> None:
    place = hierarchy.root if hierarchy.key_spec is KeySpec.ED25519 else hierarchy.leaves[KeySpec.ED25519]
    (told,) = judged(mbedtls, hierarchy.root, hierarchy.subordinate, [hierarchy.leaves[KeySpec.ED25519]])
    assert told.startswith(f"{place} cannot be read: "), told


def test_mbedtls_refuses_what_it_should(mbedtls: Path, hierarchy: Hierarchy) -> None:
    if hierarchy.key_spec is KeySpec.ED25519:
        pytest.skip("mbedTLS knows no Ed25519")
    leaf = hierarchy.leaves[KeySpec.EC_P256]
    (told,) = judged(mbedtls, hierarchy.root, hierarchy.subordinate, [leaf], host="apps.example.internal")
    assert "does not match with the expected CN" in told
    # Without the authority between them the root knows nothing of the leaf.
    (told,) = judged(mbedtls, hierarchy.root, hierarchy.root, [leaf])
    assert "not correctly signed by the trusted CA" in told
