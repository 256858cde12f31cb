"""What a replica remembers of bundles: what each peer said it holds, and when files came and went. Owns that one file.

It is no record: what it lost is exported again, and recognised as repeated.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.message import DecodeError

from federation.bundles import held_positions
from federation.codec import stream_from_message, stream_to_message
from federation.errors import InvalidWrite
from federation.identifiers import StreamId
from federation.state import State
from souverix.bundle.v1 import bundle_pb2, ledger_pb2
from souverix.sync.v1 import sync_pb2

_log = logging.getLogger(__name__)

FILE_NAME = "ledger"


class Ledger:
    """The memory of one replica, on disk below `directory`. Blocking: it is small, and written once a bundle."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._peers: dict[str, ledger_pb2.LedgerPeer] | None = None

    def peers(self) -> list[ledger_pb2.LedgerPeer]:
        """All peers, by id."""
        return [peer for _, peer in sorted(self._loaded().items())]

    def held(self, controller: str, state: State) -> dict[StreamId, int]:
        """What a peer said it holds, as far as it is held here."""
        peer = self._loaded().get(controller)
        return {} if peer is None else held_positions(peer.held, state)

    def newest_create_ms(self) -> int:
        """When the newest bundle that was taken in was made, milliseconds since the epoch; 0: none was."""
        made = [p.imported_create_time.ToMilliseconds() for p in self._loaded().values()]
        return max(made, default=0)

    def exported(self, controller: str, now_ms: int) -> None:
        """A bundle was made for a peer."""
        self._of(controller).export_time.FromMilliseconds(now_ms)
        self._save()

    def imported(
        self, manifest: bundle_pb2.Manifest, held: Mapping[StreamId, int], now_ms: int
    ) -> None:
        """A peer's bundle was taken in, in which it said what it holds. An older one takes nothing back."""
        peer = self._of(manifest.exporter)
        if manifest.counter >= peer.imported_counter:
            peer.imported_counter = manifest.counter
            peer.imported_create_time.CopyFrom(manifest.create_time)
        peer.import_time.FromMilliseconds(now_ms)
        known = {stream_from_message(p.stream): p.sequence for p in peer.held}
        for stream, sequence in held.items():
            known[stream] = max(sequence, known.get(stream, 0))
        del peer.held[:]
        peer.held.extend(
            sync_pb2.StreamPosition(stream=stream_to_message(stream), sequence=sequence)
            for stream, sequence in sorted(known.items())
        )
        self._save()

    def _of(self, controller: str) -> ledger_pb2.LedgerPeer:
        loaded = self._loaded()
        if controller not in loaded:
            loaded[controller] = ledger_pb2.LedgerPeer(controller=controller)
        return loaded[controller]

    def _loaded(self) -> dict[str, ledger_pb2.LedgerPeer]:
        if self._peers is None:
            self._peers = self._read()
        return self._peers

    def _read(self) -> dict[str, ledger_pb2.LedgerPeer]:
        try:
            found = ledger_pb2.Ledger.FromString(self._path.read_bytes())
            for peer in found.peers:
                for position in peer.held:
                    stream_from_message(position.stream)
        except FileNotFoundError:
            return {}
        except (DecodeError, InvalidWrite) as error:
            _log.warning(
                "the ledger of bundles is damaged; the next exports hold more than they need",
                extra={"path": str(self._path), "error": str(error)},
            )
            return {}
        return {peer.controller: peer for peer in found.peers}

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(ledger_pb2.Ledger(peers=self.peers()).SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
