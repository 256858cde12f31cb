"""Measurements and who signs them: registers, files, the key in a file, and what the controller's side makes of it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from controller.attestation.statement import Speaker, read_statement
from controller.signing import Ed25519Verifier
from nodeagent.attester import Binding, SoftwareAttester
from nodeagent.errors import StateUnavailable
from nodeagent.linux_host import PROGRAM_ROOT, LinuxHost
from nodeagent.measurements import (
    DIGEST_BYTES,
    MAX_FILE_BYTES,
    UNREADABLE,
    Part,
    Register,
    file_part,
    files_register,
    in_order,
    program_register,
    text_part,
)
from nodeagent.synthetic_host import SyntheticHost
from souverix.nodelink.v1 import nodelink_pb2

BINDING = Binding("zone-a1", "edge-7", "source", "run", b"\x01" * 32, 1_800_000_000, 5)


def test_a_register_starts_from_zeros_and_each_part_extends_it() -> None:
    assert Register("r", ()).value == bytes(DIGEST_BYTES)
    first, second = b"\x01" * 32, b"\x02" * 32
    once = hashlib.sha256(bytes(32) + first).digest()
    assert Register("r", (Part("a", first),)).value == once
    twice = hashlib.sha256(once + second).digest()
    assert Register("r", (Part("a", first), Part("b", second))).value == twice
    assert Register("r", (Part("b", second), Part("a", first))).value != twice


def test_a_file_is_measured_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "sshd_config"
    file.write_bytes(b"PermitRootLogin no\n")
    before = files_register([str(file)])
    assert before.parts[0] == Part(str(file), hashlib.sha256(file.read_bytes()).digest())
    file.write_bytes(b"PermitRootLogin yes\n")
    assert files_register([str(file)]).value != before.value
    file.unlink()
    assert files_register([str(file)]).parts[0].digest == UNREADABLE


def test_a_file_that_is_too_large_counts_as_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "image"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_FILE_BYTES + 1)
    assert file_part(file, "image").digest == UNREADABLE


def test_what_cannot_be_read_is_not_taken_for_something_empty() -> None:
    assert text_part("cmdline", "").digest == UNREADABLE
    assert text_part("cmdline", "quiet").digest == hashlib.sha256(b"quiet").digest()


def test_the_programs_files_are_measured_by_name() -> None:
    register = program_register(PROGRAM_ROOT)
    names = [part.name for part in register.parts]
    assert "nodeagent/measurements.py" in names
    assert "souverix/nodelink/v1/nodelink_pb2.py" in names
    digest = hashlib.sha256((PROGRAM_ROOT / "nodeagent/link.py").read_bytes()).digest()
    assert Part("nodeagent/link.py", digest) in register.parts


def test_a_host_measures_what_runs_on_it(tmp_path: Path) -> None:
    for path, text in {
        "proc/cmdline": "quiet\n",
        "proc/sys/kernel/osrelease": "6.1.0\n",
        "proc/sys/kernel/random/boot_id": "b-1\n",
        "etc/os-release": "ID=debian\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    before = {each.name: each.value for each in LinuxHost(tmp_path).registers()}
    (tmp_path / "proc/cmdline").write_text("quiet init=/bin/sh\n")
    after = {each.name: each.value for each in LinuxHost(tmp_path).registers()}
    assert {name for name in before if before[name] != after[name]} == {"kernel.cmdline"}
    assert {"agent.program", "agent.runtime", "boot.id", "firmware", "kernel", "os.release"} < set(
        before
    )


def test_made_up_hosts_of_one_image_measure_the_same_but_for_their_boot() -> None:
    hosts = [SyntheticHost(f"n{number}", 1) for number in range(40)]
    programs = {
        register.value
        for host in hosts
        for register in host.registers()
        if register.name == "agent.program"
    }
    boots = {
        register.value
        for host in hosts
        for register in host.registers()
        if register.name == "boot.id"
    }
    assert 1 < len(programs) <= 4
    assert len(boots) == 40


def quoted(file: Path) -> nodelink_pb2.AttestationStatement:
    registers = in_order(
        [Register("b", (Part("x", b"\x01" * 32),)), Register("a", ()), Register("c", ())]
    )
    quote = SoftwareAttester(file).quote(BINDING, registers)
    statement = nodelink_pb2.AttestationStatement(
        nonce=BINDING.nonce,
        scheme=quote.scheme,
        public_key=quote.public_key,
        signature=quote.signature,
    )
    statement.time.seconds, statement.time.nanos = BINDING.seconds, BINDING.nanos
    for register in quote.registers:
        added = statement.registers.add(name=register.name, value=register.value)
        for part in register.parts:
            added.events.add(name=part.name, digest=part.digest)
    return statement


def test_the_controllers_side_reads_what_the_agents_side_signs(tmp_path: Path) -> None:
    speaker = Speaker("zone-a1", "edge-7", "source", "run")
    said = read_statement(quoted(tmp_path / "key"), speaker, Ed25519Verifier())
    assert list(said.registers) == ["a", "b", "c"]
    assert said.parts_of("b") == [("x", "sha256:" + "01" * 32)]


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "state" / "attestation.key"
    first, second = quoted(file), quoted(file)
    assert first.public_key == second.public_key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    assert quoted(file).public_key != first.public_key


def test_a_key_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file = tmp_path / "attestation.key"
    file.write_bytes(b"short")
    with pytest.raises(StateUnavailable, match="attestation key"):
        quoted(file)
