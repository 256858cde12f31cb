"""Supply policies: whom a domain believes about what its nodes run, and what it demands.

Owns how they are shown and written. What counts in a domain is the controller's to say.
"""

from __future__ import annotations

from typing import Any

import click

from souverix.supply.v1 import artifact_pb2 as artifact
from souverix.supply.v1 import supply_service_pb2 as service
from souverixctl import options
from souverixctl.documents import parse_into, read_resource
from souverixctl.errors import BadInput
from souverixctl.results import present_details, present_write
from souverixctl.session import Session, Verbs, pass_session

_GATES = [name.removeprefix("GATE_MODE_") for name in artifact.GateMode.keys()[1:]]

group = Verbs(
    "supply-policy",
    help="Supply policies: whom a domain believes about what its nodes run, and what it demands.\n\n"
    "Policies along a domain's path add up: the strictest gate counts, and so does every demand. Signers of a domain"
    " are believed in its subtree.\n\n"
    "\b\n"
    "souverixctl supply-policy set region-a -f supply-policy.yaml\n"
    "souverixctl supply-policy get edge-zone-a1",
)


def _mode(gate: str) -> Any:
    return artifact.GateMode.Value(f"GATE_MODE_{gate.upper()}")


@group.command("get", short_help="Show a domain's supply policy and what counts in it.")
@click.argument("domain", metavar="DOMAIN")
@pass_session
def get_policy(session: Session, domain: str) -> None:
    """Show what a domain declares, and what counts in it with the domains above.

    \b
    souverixctl supply-policy get edge-zone-a1
    """
    request = service.GetSupplyPolicyRequest(domain=domain)
    reply = session.connection.call(request, service.GetSupplyPolicyResponse)
    present_details(session, reply, reply.policy)


@group.command("set", short_help="Replace a domain's supply policy.")
@click.argument("domain", metavar="DOMAIN")
@options.file_option("The whole policy, in YAML or JSON; - is stdin.")
@click.option(
    "--gate",
    type=click.Choice([gate.lower() for gate in _GATES]),
    help="What becomes of desired versions that are not verified. Default: as the file says.",
)
@options.etag_option
@options.write_options
@pass_session
def set_policy(
    session: Session, domain: str, file: str | None, gate: str | None, etag: str, **given: Any
) -> None:
    """Replace a domain's supply policy by a file; with --gate alone, change the gate and keep the rest.

    \b
    gate: GATE_MODE_ENFORCE
    signers:
    - name: build-system
      public_key_pem: |
        -----BEGIN PUBLIC KEY-----
        …
      uses: [SIGNER_USE_PROVENANCE, SIGNER_USE_SBOM]
      slsa_build_level: 2
    requirements: [REQUIREMENT_PROVENANCE]

    \b
    souverixctl supply-policy set region-a -f supply-policy.yaml
    souverixctl supply-policy set region-a --gate warn
    """
    write = options.read_write_options(given)
    spec = artifact.SupplyPolicySpec()
    if file:
        parse_into(read_resource(file, "policy")["spec"], spec, file)
    elif gate is None:
        raise BadInput("there is nothing to set", "give a file with -f, or --gate")
    else:
        held = session.connection.call(
            service.GetSupplyPolicyRequest(domain=domain), service.GetSupplyPolicyResponse
        )
        spec.CopyFrom(held.policy.spec)
        etag = etag or held.policy.etag
    if gate is not None:
        spec.gate = _mode(gate)
    request = service.SetSupplyPolicyRequest(
        domain=domain,
        spec=spec,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.SetSupplyPolicyResponse)
    present_write(session, reply, f"supply policy of {domain} set", reply.policy.etag)
