"""The agent of this project without its own look at whose certificate it shows, which a hostile one would not take
either. Owns that one change; run as a program, with the agent's arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodeagent import process
from nodeagent.certificates import AgentCertificate
from nodeagent.logs import EventLog
from nodeagent.main import main
from trust.files import TrustFiles
from trust.identity import Kind


def whatever_it_says(files: TrustFiles, name: str, kinds: Sequence[Kind]) -> AgentCertificate:
    """The certificate of the files, whoever it names."""
    return AgentCertificate(files, EventLog(name))


if __name__ == "__main__":
    process.certificate_of = whatever_it_says  # type: ignore[attr-defined]
    main()
