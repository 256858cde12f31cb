"""People at a listener of their own, who prove themselves by tokens of an OpenID provider; by TLS the server alone does
there. Owns how a token is shown, and the end of calls whose token is no longer good; which tokens are good is
`trust.tokens`'s, what a person may do is for others to decide.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Final

import grpc

from controller.bearer import AUTHORIZATION, TokenBearer
from controller.standing import BearerRefused, StandingCalls
from trust.errors import TokenReason, TokenRefused, TrustError
from trust.tokens import ReloadedTokenKeys, TokenRules, judge_token

_log = logging.getLogger(__name__)

#: Tokens kept judged: more than the people of any controller. Beyond it all are judged anew.
MAX_JUDGED: Final = 4096

#: How often the file of keys is looked at: a key that was taken out is refused within this.
LOOK_S: Final = 1.0

_SCHEME: Final = "bearer "


class People:
    """Judges the tokens of one replica's callers."""

    def __init__(
        self,
        keys: ReloadedTokenKeys,
        rules: TokenRules,
        domain: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = keys
        self._rules = rules
        self._domain = domain
        self._now = now
        #: By digest: what is kept here lets nobody in.
        self._judged: dict[bytes, TokenBearer] = {}
        self._calls: StandingCalls[TokenBearer] = StandingCalls(now)
        self._told_problem = ""

    def of_call(self, context: Any) -> TokenBearer:
        """Whom the token of a call names. Raises `BearerRefused`."""
        return self._of_token(_shown(context))

    def standing(self, bearer: TokenBearer) -> AbstractAsyncContextManager[None]:
        """The call lasts as long as the block, at most until the token ends. Raises `BearerRefused` then."""
        return self._calls.standing(
            bearer,
            bearer.not_after,
            BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED,
                TokenReason.EXPIRED.value,
                f"the token of {bearer.principal} ended while the call went on; get a new one",
            ),
        )

    async def run(self) -> None:
        """Follows the file of keys until cancelled, and ends the calls that stand on a key that is gone."""
        self._tell_passed_over()
        while True:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        try:
            replaced = self._keys.reload()
        except TrustError as error:
            if str(error) != self._told_problem:
                self._told_problem = str(error)
                _log.error("keys of tokens cannot be read again", extra={"error": str(error)})
            return
        self._told_problem = ""
        if replaced:
            _log.info("keys of tokens replaced", extra={"file": str(self._keys.path)})
            self._tell_passed_over()
            self._judged.clear()
            self._calls.recheck(lambda bearer: self._of_token(bearer.token))

    def _of_token(self, token: str) -> TokenBearer:
        digest = hashlib.sha256(token.encode()).digest()
        bearer = self._judged.get(digest)
        if bearer is not None and self._now() <= bearer.not_after:
            return bearer
        try:
            person = judge_token(token, self._keys.current, self._rules, self._now())
        except TokenRefused as error:
            raise BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED, error.reason.value, str(error)
            ) from error
        if len(self._judged) >= MAX_JUDGED:
            self._judged.clear()
        self._judged[digest] = bearer = TokenBearer(person, self._domain, token)
        return bearer

    def _tell_passed_over(self) -> None:
        for reason in self._keys.current.passed_over:
            _log.warning("a key of tokens is passed over", extra={"reason": reason})


def _shown(context: Any) -> str:
    shown = [v for key, v in context.invocation_metadata() or () if key == AUTHORIZATION]
    if not shown:
        raise BearerRefused(
            grpc.StatusCode.UNAUTHENTICATED,
            "TOKEN_MISSING",
            "no token was shown, and this listener demands one: souverixctl --token-file FILE",
        )
    text = shown[0] if isinstance(shown[0], str) else shown[0].decode(errors="replace")
    if len(shown) > 1 or not text.isascii() or text[: len(_SCHEME)].lower() != _SCHEME:
        raise BearerRefused(
            grpc.StatusCode.UNAUTHENTICATED,
            TokenReason.MALFORMED.value,
            f"the metadata {AUTHORIZATION} is not one entry of the form Bearer TOKEN",
        )
    return text[len(_SCHEME) :].strip()
