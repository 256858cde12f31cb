"""Certificates of made-up nodes: their domain's authority issues them, in memory, as they greet.

Owns these certificates and their renewal. For trying out only: an authority's key belongs to no agent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from nodeagent.certificates import Vouch, vouch_by
from nodeagent.errors import SettingsInvalid
from souverix.nodelink.v1 import nodelink_pb2
from trust.authority import Authority
from trust.errors import CertificateRefused, TrustError
from trust.files import Credentials, read_authority
from trust.identity import Kind
from trust.keys import new_tls_key


class SimulatedCertificates:
    """The certificates of one domain's made-up nodes. Raises SettingsInvalid when the authority cannot be used."""

    def __init__(self, authority: Path) -> None:
        try:
            self._authority: Authority = read_authority(authority, None, datetime.now(UTC))
        except (TrustError, CertificateRefused) as error:
            raise SettingsInvalid(f"authority: {error}") from error
        self._issued: dict[str, Credentials] = {}

    def of(self, node: str) -> Vouch:
        """The word of a node's certificate, which is renewed when half of its life is over."""

        def vouch(message: bytes) -> nodelink_pb2.KeyVoucher:
            return vouch_by(self._current(node), message)

        return vouch

    def _current(self, node: str) -> Credentials:
        now = datetime.now(UTC)
        held = self._issued.get(node)
        if held is not None:
            begun, ends = held.leaf.not_valid_before_utc, held.leaf.not_valid_after_utc
            if now < begun + (ends - begun) / 2:
                return held
        key = new_tls_key()
        leaf = self._authority.issue(key.public_key(), Kind.NODE, node, now)
        chain = (leaf, *self._authority.intermediates)
        fresh = Credentials(key, chain, self._authority.certificates[-1:])
        self._issued[node] = fresh
        return fresh
