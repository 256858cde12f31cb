"""People by token at a listener: how a token is shown, what ends calls that go on, and what never reaches machines'
streams.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller import people as module
from controller.bearer import check_bearer, current_bearer, serving
from controller.people import People
from controller.services.calls import caller_of
from controller.standing import BearerRefused
from tests.tokens import AUDIENCE, ISSUER, PROVIDER, Provider
from trust.identity import Kind
from trust.tokens import ReloadedTokenKeys, TokenRules

RULES = TokenRules(
    PROVIDER, ISSUER, AUDIENCE, "sub", "groups", timedelta(seconds=5), timedelta(hours=1)
)


class Call:
    """What a gRPC context says of a call over TLS."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"transport_security_type": [b"ssl"]}

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return (("souverix-principal", "user:admin"), *self._metadata)

    def peer(self) -> str:
        return "ipv4:192.0.2.7:4711"

    def time_remaining(self) -> None:
        return None


class Listener:
    """People of region-a's controller, with a clock that stands until it is moved."""

    def __init__(self, directory: Path) -> None:
        self.now = datetime.now(UTC)
        self.provider = Provider()
        self.keys = self.provider.write(directory / "jwks.json")
        self.people = People(ReloadedTokenKeys(self.keys), RULES, "region-a", lambda: self.now)

    def token(self, name: str = "alice", **said: Any) -> str:
        return self.provider.token(name, at=self.now, **said)

    def refusal(self, *metadata: tuple[str, str | bytes]) -> str:
        with pytest.raises(BearerRefused) as refused:
            self.people.of_call(Call(*metadata))
        return refused.value.reason


def shown(token: str, scheme: str = "Bearer") -> tuple[str, str]:
    return ("authorization", f"{scheme} {token}")


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


def test_the_caller_is_whom_the_token_names_bounded_by_the_domain_that_took_it(
    listener: Listener,
) -> None:
    call: Any = Call(shown(listener.token()))
    with serving(listener.people.of_call(call)):
        caller = caller_of(call)
    assert (caller.principal, caller.issued_by, caller.groups) == (
        "oidc:alice@corp",
        "region-a",
        ("group:noc@corp",),
    )
    assert caller_of(call).principal == "user:anonymous", "unjudged, and still not user:admin"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_is_not_told_by_case(listener: Listener, scheme: str) -> None:
    assert listener.people.of_call(Call(shown(listener.token(), scheme)))


def test_what_is_not_one_token_is_refused(listener: Listener) -> None:
    good = listener.token()
    assert listener.refusal() == "TOKEN_MISSING"
    for entry in (good, f"Basic {good}", "Bearer", "", "Bearer \u00fc", b"Bearer \xff"):
        assert listener.refusal(("authorization", entry)) == "TOKEN_MALFORMED"
    assert listener.refusal(shown(good), shown(good)) == "TOKEN_MALFORMED"


def test_a_token_is_judged_anew_when_it_has_ended(listener: Listener) -> None:
    token = listener.token()
    assert listener.people.of_call(Call(shown(token))) is listener.people.of_call(
        Call(shown(token))
    )
    listener.now += timedelta(minutes=10, seconds=6)
    assert listener.refusal(shown(token)) == "TOKEN_EXPIRED"


def test_a_token_is_no_certificate(listener: Listener) -> None:
    """A name that fits does not make it one."""
    with serving(listener.people.of_call(Call(shown(listener.token("n1"))))):
        for ask in (current_bearer, lambda: check_bearer(Kind.NODE, "n1", "region-a")):
            with pytest.raises(BearerRefused) as refused:
                ask()
            assert refused.value.reason == "CERTIFICATE_MISSING"


async def test_a_call_that_goes_on_ends_with_its_token(listener: Listener) -> None:
    bearer = listener.people.of_call(Call(shown(listener.token())))
    listener.now = bearer.not_after - timedelta(seconds=0.05)
    with pytest.raises(BearerRefused) as refused:
        async with listener.people.standing(bearer):
            await asyncio.Event().wait()
    assert refused.value.reason == "TOKEN_EXPIRED"


async def test_a_key_that_is_taken_out_ends_the_calls_that_stand_on_it_and_no_others(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    caplog.set_level(logging.INFO)
    old = listener.people.of_call(Call(shown(listener.token())))
    listener.provider.add("k2", Provider().keys["k1"][0], "ES256")
    listener.provider.write(listener.keys)
    following = asyncio.create_task(listener.people.run())
    async with asyncio.timeout(10):
        while "keys of tokens replaced" not in caplog.text:  # noqa: ASYNC110 a log has no event
            await asyncio.sleep(0.01)
    new = listener.people.of_call(Call(shown(listener.token(key_id="k2"))))
    with pytest.raises(BearerRefused) as refused:  # noqa: PT012 what happens meanwhile ends it
        async with listener.people.standing(new), listener.people.standing(old):
            del listener.provider.keys["k1"]
            listener.provider.write(listener.keys)
            await asyncio.Event().wait()
    assert refused.value.reason == "TOKEN_KEY_UNKNOWN"
    async with listener.people.standing(new):
        await asyncio.sleep(0.05)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_broken_file_changes_nothing_and_is_told_once(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    listener.keys.write_bytes(b"torn")
    following = asyncio.create_task(listener.people.run())
    async with asyncio.timeout(10):
        while "keys of tokens cannot be read again" not in caplog.text:  # noqa: ASYNC110 as above
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert caplog.text.count("keys of tokens cannot be read again") == 1
    assert listener.people.of_call(Call(shown(listener.token())))
