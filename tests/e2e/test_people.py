"""People by token of an OpenID provider, at the listeners for people of a running federation: who gets in and who does
not, what they may, what is audited, and what ends calls that go on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from deploy.local_processes import free_port
from souverix.audit.v1 import audit_pb2, audit_service_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.trust.v1 import access_service_pb2, role_binding_pb2
from tests.e2e.clients import DEADLINE_S, Clients, reason_of, wait_until
from tests.e2e.ctl import Ctl
from tests.tokens import AUDIENCE, ISSUER, Provider
from trust.channels import ClientTls
from trust.files import ROOTS_FILE
from trust.identity import Kind

ROOT, ZONE = "global", "edge-zone-a1"
TREE = [
    DomainPlan(ROOT, kind="global", level="global", log="sqlite"),
    # Writes at the zone are the root's to make: they are passed on.
    DomainPlan(
        ZONE, ROOT, log="sqlite", master_of_record="global-control", can_modify_policies=False
    ),
]
WHOAMI = access_service_pb2.WhoAmIRequest()
Metadata = tuple[tuple[str, str], ...]


@dataclass
class Peopled:
    """The running federation, its provider of tokens, and clients that show no certificate."""

    federation: LocalFederation
    provider: Provider
    keys: Path
    addresses: dict[str, str]
    roots: Path
    admin: Clients
    root: Clients
    zone: Clients

    def replace_keys(self) -> None:
        self.provider.write(self.keys)

    def bind(self, member: str, role: role_binding_pb2.Role, domain: str) -> None:
        """As the configured admin, who has a certificate."""
        request = access_service_pb2.CreateRoleBindingRequest(
            domain=domain,
            binding_id=f"b{abs(hash((member, role)))}",
            spec=role_binding_pb2.RoleBindingSpec(role=role, members=[member]),
        )
        self.admin.access.CreateRoleBinding(request, timeout=DEADLINE_S)


def as_person(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refusal:
        call()
    return refusal.value


@pytest.fixture(scope="module")
def peopled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peopled]:
    directory = tmp_path_factory.mktemp("federation")
    provider = Provider()
    keys = provider.write(directory / "jwks.json")
    federation = LocalFederation(directory, TREE, secured=True, admins=["user:operator"])
    with federation, contextlib.ExitStack() as stack:
        addresses = {}
        for domain in (ROOT, ZONE):
            addresses[domain] = f"127.0.0.1:{free_port(taken=())}"
            config = federation.config_path(domain)
            text = config.read_text()
            listening = f'[listen]\npeople_address = "{addresses[domain]}"'
            config.write_text(
                text.replace("[listen]", listening)
                + f'[access.oidc]\nname = "corp"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'
                f"jwks = {json.dumps(str(keys))}\nclock_skew_s = 0\nmax_life_s = 3600\n"
            )
        federation.start_all()
        roots = federation.certificates.leaf(ROOT, Kind.USER, "operator") / ROOTS_FILE
        nobody = ClientTls(roots.read_bytes(), None)
        yield Peopled(
            federation,
            provider,
            keys,
            addresses,
            roots,
            stack.enter_context(Clients(federation.address(ROOT), federation.client_tls(ROOT))),
            stack.enter_context(Clients(addresses[ROOT], nobody)),
            stack.enter_context(Clients(addresses[ZONE], nobody)),
        )


def test_a_token_names_a_person_and_its_groups_give_roles(peopled: Peopled) -> None:
    peopled.bind("group:noc@corp", role_binding_pb2.ROLE_OPERATOR, ROOT)
    me = peopled.root.access.WhoAmI(
        WHOAMI, timeout=DEADLINE_S, metadata=as_person(peopled.provider.token())
    )
    assert (me.principal, me.issued_by, me.token_issuer) == ("oidc:alice@corp", ROOT, ISSUER)
    assert list(me.groups) == ["group:noc@corp"]
    assert [(g.role, g.domain) for g in me.grants] == [(role_binding_pb2.ROLE_OPERATOR, ROOT)]
    assert me.expire_time.ToDatetime(UTC) > datetime.now(UTC) + timedelta(minutes=9)


def test_a_user_by_certificate_of_the_same_name_is_another(peopled: Peopled) -> None:
    """The configured admin is user:operator; a token of that name is not."""
    token = peopled.provider.token("operator", groups=[])
    me = peopled.root.access.WhoAmI(WHOAMI, timeout=DEADLINE_S, metadata=as_person(token))
    assert (me.principal, list(me.grants)) == ("oidc:operator@corp", [])


def test_bad_tokens_are_refused_with_their_reasons_and_audited(peopled: Peopled) -> None:
    provider, now = peopled.provider, datetime.now(UTC)
    bad = {
        "TOKEN_FOR_ANOTHER_AUDIENCE": provider.token(aud="another"),
        "TOKEN_ISSUER_UNKNOWN": provider.token(iss="https://evil"),
        "TOKEN_SIGNATURE_INVALID": Provider().token(),
        "TOKEN_EXPIRED": provider.token(at=now - timedelta(minutes=11)),
        "TOKEN_NOT_YET_VALID": provider.token(at=now + timedelta(minutes=2)),
        "TOKEN_LIFE_TOO_LONG": provider.token(life=timedelta(days=1)),
        "TOKEN_CLAIM_MISSING": provider.token(without="exp"),
        "TOKEN_NAMES_NOBODY": provider.token("two words"),
        "TOKEN_MALFORMED": "garbage",
        "TOKEN_ALGORITHM_REFUSED": "eyJhbGciOiJub25lIn0.e30.",
    }
    for reason, token in bad.items():
        refusal = refused(
            lambda token=token: peopled.root.access.WhoAmI(  # type: ignore[misc]
                WHOAMI, timeout=DEADLINE_S, metadata=as_person(token)
            )
        )
        assert (refusal.code(), reason_of(refusal)) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert reason_of(refused(lambda: peopled.root.access.WhoAmI(WHOAMI))) == "TOKEN_MISSING"

    def audited() -> set[str]:
        request = audit_service_pb2.ListAuditEntriesRequest(domain=ROOT, page_size=100)
        page = peopled.admin.audit.ListAuditEntries(request, timeout=DEADLINE_S)
        return {
            entry.record.reason
            for entry in page.entries
            if entry.record.outcome == audit_pb2.AUDIT_OUTCOME_DENIED
            and entry.record.principal == "user:anonymous"
        }

    wait_until(lambda: audited() >= {*bad, "TOKEN_MISSING"}, f"all in the audit log: {audited()}")


def test_a_huge_token_is_refused(peopled: Peopled) -> None:
    token = peopled.provider.token(filling="x" * 64 * 1024)
    refusal = refused(
        lambda: peopled.root.access.WhoAmI(WHOAMI, timeout=DEADLINE_S, metadata=as_person(token))
    )
    assert refusal.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    good = as_person(peopled.provider.token())
    assert peopled.root.access.WhoAmI(WHOAMI, timeout=DEADLINE_S, metadata=good)


def test_who_has_no_role_is_denied_by_name(peopled: Peopled) -> None:
    token = peopled.provider.token("mallory", groups=[])
    request = policy_service_pb2.ListPoliciesRequest(domain=ROOT)
    refusal = refused(
        lambda: peopled.root.policies.ListPolicies(
            request, timeout=DEADLINE_S, metadata=as_person(token)
        )
    )
    assert reason_of(refusal) == "ACCESS_DENIED"
    assert "souverixctl access grant global viewer oidc:mallory@corp" in str(refusal.details())


def test_listeners_take_what_they_are_for(peopled: Peopled) -> None:
    """A token is not taken where certificates are, nor streams of machines where people call."""
    token = as_person(peopled.provider.token())
    refusal = refused(lambda: peopled.admin.access.WhoAmI(WHOAMI, metadata=token))
    assert reason_of(refusal) == "TOKEN_NOT_TAKEN"
    federation = peopled.federation
    with Clients(peopled.addresses[ROOT], federation.client_tls(ROOT)) as with_certificate:
        refusal = refused(lambda: with_certificate.access.WhoAmI(WHOAMI))
    assert reason_of(refusal) == "TOKEN_MISSING", "a certificate that nobody asked for is no name"
    with grpc.secure_channel(
        peopled.addresses[ROOT], ClientTls(peopled.roots.read_bytes(), None).channel_credentials()
    ) as channel:
        stream: Any = channel.stream_stream("/souverix.sync.v1.SyncService/Connect")
        refusal = refused(lambda: next(stream(iter([b""]), metadata=token)))
    assert refusal.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_write_that_is_passed_on_keeps_person_and_groups_within_the_zone(
    peopled: Peopled,
) -> None:
    peopled.bind("group:deploy@corp", role_binding_pb2.ROLE_FLEET_ADMIN, ROOT)
    token = as_person(peopled.provider.token("dora", groups=["deploy"]))

    def create(domain: str) -> Any:
        request = policy_service_pb2.CreatePolicyRequest(
            domain=domain, policy_id="by-dora", spec=policy_pb2.PolicySpec(version="1")
        )
        return peopled.zone.policies.CreatePolicy(request, timeout=DEADLINE_S, metadata=token)

    def known_at_the_zone() -> bool:
        me = peopled.zone.access.WhoAmI(WHOAMI, timeout=DEADLINE_S, metadata=token)
        return [grant.domain for grant in me.grants] == [ZONE]

    wait_until(known_at_the_zone, "the binding at the zone")
    assert create(ZONE).receipt.controller == "global-control"
    assert peopled.admin.policy(ZONE, "by-dora").last_writer == "oidc:dora@corp"  # type: ignore[union-attr]
    assert reason_of(refused(lambda: create(ROOT))) == "ACCESS_DENIED"


def test_a_watch_ends_with_its_token(peopled: Peopled) -> None:
    token = as_person(peopled.provider.token(life=timedelta(seconds=3)))
    request = policy_service_pb2.WatchPoliciesRequest(domain=ROOT)
    watch = peopled.root.policies.WatchPolicies(request, timeout=DEADLINE_S, metadata=token)
    refusal = refused(lambda: list(watch))
    assert reason_of(refusal) == "TOKEN_EXPIRED"


def test_souverixctl_reads_its_token_from_a_file_at_each_call(
    peopled: Peopled, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(peopled.provider.token("carol") + "\n")
    server = peopled.addresses[ROOT]
    ctl = Ctl(server, SOUVERIX_TOKEN_FILE=str(file), SOUVERIX_CA=str(peopled.roots))
    assert (
        f"oidc:carol@corp, by a token of {ISSUER}, taken in domain {ROOT}"
        in ctl("access", "whoami").out
    )
    file.write_text(peopled.provider.token("carol", at=datetime.now(UTC) - timedelta(hours=1)))
    assert "TOKEN_EXPIRED" in ctl("access", "whoami", code=5).err
    file.chmod(0o644)
    assert f"chmod 600 {file}" in ctl("access", "whoami", code=2).err
    assert "--ca FILE" in Ctl(server, SOUVERIX_TOKEN_FILE=str(file))("access", "whoami", code=2).err


def test_a_key_that_is_replaced_ends_its_watches_and_refuses_its_tokens(peopled: Peopled) -> None:
    token = as_person(peopled.provider.token())
    request = policy_service_pb2.WatchPoliciesRequest(domain=ROOT)
    watch = peopled.root.policies.WatchPolicies(request, timeout=DEADLINE_S, metadata=token)
    peopled.provider.add("k2", Provider().keys["k1"][0], "ES256")
    del peopled.provider.keys["k1"]
    peopled.replace_keys()
    assert reason_of(refused(lambda: list(watch))) == "TOKEN_KEY_UNKNOWN"
    refusal = refused(lambda: peopled.root.access.WhoAmI(WHOAMI, metadata=token))
    assert reason_of(refusal) == "TOKEN_KEY_UNKNOWN"
    fresh = as_person(peopled.provider.token(key_id="k2"))
    assert peopled.root.access.WhoAmI(WHOAMI, timeout=DEADLINE_S, metadata=fresh)
