"""certd permits what OpenSSL and GnuTLS permit below constraints of every kind, but for a table of reasons."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from multiprocessing.pool import ThreadPool
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certd.pki import distinguished_name, name_constraints
from tests.interop import constrained_chains
from tests.interop.constrained_chains import Case
from tests.interop.name_constraint_readings import READINGS, Reading, Tool

# Homebrew has it under another name, for macOS has a certtool of its own.
CERTTOOL = shutil.which("gnutls-certtool") or shutil.which("certtool") or "certtool"
SEED = 5280
CASES = int(os.environ.get("CERTD_NAME_CONSTRAINT_CASES", "400"))
"""Generated; a long run has some hundred thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Cases, and which of them each tool verifies."""

    cases: Sequence[Case]
    verdicts: Mapping[Tool, frozenset[int]]
    """Numbers of the cases that it accepts."""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    random = Random(SEED)
    examples = [
        replace(reading.example, number=number, authority=f"CN=Lower Authority {number},O=Example")
        for number, reading in enumerate(READINGS)
    ]
    cases = [*examples, *(constrained_chains.generate(random, len(examples) + number) for number in range(CASES))]
    folder = tmp_path_factory.mktemp("chains")
    root = constrained_chains.write(folder / "root.pem", constrained_chains.root())
    chains = {case.number: constrained_chains.chain(case) for case in cases}
    authorities = [authority for chain in chains.values() for authority in (chain.lower, chain.upper)]
    untrusted = constrained_chains.write(folder / "untrusted.pem", *authorities)
    leaves = [constrained_chains.write(folder / f"{number}.pem", chain.leaf) for number, chain in chains.items()]
    bundles = [
        constrained_chains.write(folder / f"{number}.bundle", chain.leaf, chain.lower, chain.upper)
        for number, chain in chains.items()
    ]
    verified = _run("openssl", "verify", "-trusted", root, "-untrusted", untrusted, *leaves).stdout.splitlines()
    with ThreadPool(2) as pool:
        accepted = pool.map(lambda bundle: _gnutls_accepts(root, bundle), bundles)
    return Judged(
        cases=cases,
        verdicts={
            "OpenSSL": frozenset(int(Path(line[:-4]).stem) for line in verified if line.endswith(": OK")),
            "GnuTLS": frozenset(case.number for case, yes in zip(cases, accepted, strict=True) if yes),
        },
    )


def _run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def _gnutls_accepts(root: Path, bundle: Path) -> bool:
    ended = _run(
        *(CERTTOOL, "--verify", "--verify-profile=medium", f"--load-ca-certificate={root}", f"--infile={bundle}")
    )
    # Nothing but the constraints may be in the way.
    assert ended.returncode == 0 or "violates the signer's constraints" in ended.stdout, ended.stdout
    return ended.returncode == 0


def _explained(case: Case, readings: Iterable[Reading], *, accepted: bool) -> bool:
    read = case
    for reading in readings:
        read = reading.read(read)
    return read.permitted == accepted


def _excludes_the_empty_name(case: Case) -> bool:
    """An empty directory name, which stands for all, upsets what GnuTLS makes of the whole list."""
    return any(distinguished_name.EMPTY in one.excluded.directory_names for one in case.constraints)


@pytest.mark.parametrize("tool", ["OpenSSL", "GnuTLS"])
def test_every_difference_is_in_the_table(judged: Judged, tool: Tool) -> None:
    readings = [reading for reading in READINGS if reading.tool == tool]
    subsets = [subset for size in (1, 2, 3) for subset in combinations(readings, size)]
    accepted = judged.verdicts[tool]
    differing = [
        case
        for case in judged.cases
        if case.permitted != (case.number in accepted) and not (tool == "GnuTLS" and _excludes_the_empty_name(case))
    ]
    unexplained = [
        case
        for case in differing
        if not any(_explained(case, subset, accepted=case.number in accepted) for subset in subsets)
    ]
    assert not unexplained, f"of {len(differing)}: {unexplained[:3]}"


@pytest.mark.parametrize(
    "number", range(len(READINGS)), ids=lambda n: f"{READINGS[n].tool}-{READINGS[n].read.__name__}"
)
def test_every_reason_of_the_table_still_holds(judged: Judged, number: int) -> None:
    reading = READINGS[number]
    accepted = number in judged.verdicts[reading.tool]
    assert judged.cases[number].permitted != accepted, f"{reading.tool} now agrees: take it out of the table"
    assert _explained(judged.cases[number], [reading], accepted=accepted)


def test_the_cases_are_worth_judging(judged: Judged) -> None:
    permitted = sum(case.permitted for case in judged.cases)
    assert 0.2 < permitted / len(judged.cases) < 0.8
    for kind in constrained_chains.KINDS:
        about = [case for case in judged.cases if any(getattr(side, kind) for side in case.subtrees)]
        assert {case.permitted for case in about} == {True, False}, kind


def test_the_extension_is_the_library_s_byte_for_byte(judged: Judged) -> None:
    for case in judged.cases:
        for constraints in case.constraints:
            extension = constrained_chains.constraints_extension(constraints)
            if extension is not None:
                assert name_constraints.encode(constraints) == extension.public_bytes()
                assert name_constraints.decode(extension.public_bytes()) == constraints


def test_constraints_are_read_from_a_certificate(judged: Judged) -> None:
    for case in judged.cases[:50]:
        chain = constrained_chains.chain(case)
        der = chain.upper.public_bytes(Encoding.DER)
        upper = case.constraints[0]
        assert name_constraints.of_certificate(der) == (upper if upper.permitted or upper.excluded else None)
