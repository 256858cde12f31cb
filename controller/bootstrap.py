"""What a controller must write before anything else can be: the genesis at the root, and the domains and keys of its
configured children. A duty of the master; writes only what is not there yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from google.protobuf.message import DecodeError

from controller.config import ChildSection, ConfigError
from controller.journal import Journal
from controller.replica import Replica
from controller.writes import write_audit
from federation.chain import key_id_of
from federation.domains import DomainDeclaration, declare_domain
from federation.expulsion import new_key
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2
from souverix.trust.v1 import certificate_authority_pb2
from trust.certificates import identity_of, parse_pem, to_der, verify_authorities
from trust.errors import CertificateRefused

_log = logging.getLogger(__name__)

_KINDS = {
    "region": domain_pb2.DOMAIN_KIND_REGION,
    "edge-zone": domain_pb2.DOMAIN_KIND_EDGE_ZONE,
    "cluster": domain_pb2.DOMAIN_KIND_CLUSTER,
    "tenant": domain_pb2.DOMAIN_KIND_TENANT,
    "air-gap-island": domain_pb2.DOMAIN_KIND_AIR_GAP_ISLAND,
}
_LEVELS = {
    "regional": authority_pb2.AUTHORITY_LEVEL_REGIONAL,
    "local": authority_pb2.AUTHORITY_LEVEL_LOCAL,
    "autonomous": authority_pb2.AUTHORITY_LEVEL_AUTONOMOUS,
}
_MODES = {
    "continuous": authority_pb2.SYNC_MODE_CONTINUOUS,
    "periodic": authority_pb2.SYNC_MODE_PERIODIC,
    "opportunistic": authority_pb2.SYNC_MODE_OPPORTUNISTIC,
    "manual": authority_pb2.SYNC_MODE_MANUAL,
}


#: Authorities of one domain at once: one, and another while it takes over, with room.
MAX_AUTHORITIES = 4


async def bootstrap(replica: Replica, journal: Journal) -> None:
    """Writes the genesis and the children's domains where they are missing. Raises `ConfigError`."""
    config = replica.config
    principal = f"controller:{config.controller.id}"
    if config.trust.genesis and config.controller.domain not in replica.state.authority.records:
        genesis = await asyncio.to_thread(_read_genesis, Path(config.trust.genesis))
        _check_genesis(genesis, replica)
        await journal.submit(partial(_write_genesis, genesis=genesis, principal=principal))
        _log.info("the federation begins", extra={"domain": config.controller.domain})
    await _own_authority(replica)
    if config.tls is not None and not config.access_enforced:
        await journal.submit(
            partial(_tell_not_enforced, own=config.controller.domain, principal=principal)
        )
    for child in config.children:
        await journal.submit(
            partial(_declare_child, child=child, replica=replica, principal=principal)
        )
        if child.certificate_authority:
            certificates = await asyncio.to_thread(_read_authorities, child, replica)
            await journal.submit(
                partial(
                    _state_authorities,
                    child=child,
                    certificates=certificates,
                    own=config.controller.domain,
                    principal=principal,
                )
            )


def _read_authorities(child: ChildSection, replica: Replica) -> tuple[bytes, ...]:
    """The certificates of a child's authority, as its file has them. Raises `ConfigError`."""
    path = Path(child.certificate_authority)
    try:
        found = [c for c in parse_pem(path.read_bytes()) if identity_of(c).domain == child.domain]
        for certificate in found:
            if replica.credentials is not None:
                own = replica.credentials.current.authorities
                verify_authorities((certificate, *own), own[-1:], datetime.now(UTC))
    except OSError as error:
        raise ConfigError(
            f"certificate_authority {path} of {child.domain} cannot be read: {error.strerror}"
        ) from error
    except CertificateRefused as error:
        raise ConfigError(f"certificate_authority {path} of {child.domain}: {error}") from error
    if not 0 < len(found) <= MAX_AUTHORITIES:
        raise ConfigError(
            f"certificate_authority {path} holds {len(found)} certificates of the authority of {child.domain}; 1 to "
            f"{MAX_AUTHORITIES} are expected"
        )
    return tuple(to_der(certificate) for certificate in found)


def _state_authorities(
    proposal: Proposal,
    child: ChildSection,
    certificates: tuple[bytes, ...],
    own: str,
    principal: str,
) -> None:
    """States the authorities of a child's domain, where what was stated is not this."""
    subject = f"domains/{child.domain}"
    stated = proposal.winner(Key(child.domain, subject, "certificate_authority"))
    if stated is not None and tuple(stated.body().certificates) == certificates:
        return
    fact = certificate_authority_pb2.CertificateAuthority(
        domain=child.domain, certificates=certificates
    )
    proposal.write(child.domain, subject, "certificate_authority", fact, principal=principal)
    record = audit_pb2.AuditRecord(
        principal=principal,
        action="certificate_authority.stated",
        resource=subject,
        source="configuration",
        outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
        details={"fingerprints": " ".join(hashlib.sha256(c).hexdigest() for c in certificates)},
    )
    write_audit(proposal, record, domain=own)


def _tell_not_enforced(proposal: Proposal, own: str, principal: str) -> None:
    """Puts on record, with each mastership, that everybody with a certificate may do everything here."""
    record = audit_pb2.AuditRecord(
        principal=principal,
        action="access.not_enforced",
        resource=f"domains/{own}",
        source="configuration",
        outcome=audit_pb2.AUDIT_OUTCOME_OBSERVED,
        message='access.mode is "off": no role is asked for',
    )
    write_audit(proposal, record, domain=own)


def _read_genesis(path: Path) -> authority_pb2.Genesis:
    try:
        return authority_pb2.Genesis.FromString(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"trust.genesis {path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ConfigError(f"trust.genesis {path} holds no genesis") from error


def _check_genesis(genesis: authority_pb2.Genesis, replica: Replica) -> None:
    """Refuses a genesis that would be written and then have no effect."""
    config = replica.config
    who = config.controller
    if (genesis.domain, genesis.key.controller) != (who.domain, who.id):
        raise ConfigError(
            f"trust.genesis is of {genesis.key.controller} and domain {genesis.domain}, and this is {who.id} of "
            f"domain {who.domain}"
        )
    if genesis.key.public_key != replica.signer.public_key:
        raise ConfigError(
            "trust.genesis was made for another key than trust.signing_key; make it anew with both keys"
        )
    if not replica.state.keys.genesis_is_good(genesis):
        raise ConfigError("trust.genesis is not signed by the key of trust.root_public_key")


async def _own_authority(replica: Replica) -> None:
    """Waits until this controller's own place in the tree is known; at first contact the parent says it."""
    own = replica.config.controller.domain
    with replica.changes.subscribe() as subscription:
        while replica.state.authority.path_of(own) is None:
            await subscription.next(timeout_s=1.0)


def _write_genesis(proposal: Proposal, genesis: authority_pb2.Genesis, principal: str) -> None:
    domain = genesis.domain
    subject = f"domains/{domain}"
    proposal.write(domain, subject, "genesis", genesis, principal=principal)
    spec = domain_pb2.DomainSpec(kind=domain_pb2.DOMAIN_KIND_GLOBAL, display_name=domain)
    proposal.write(domain, subject, "domain_spec", spec, principal=principal)
    existence = domain_pb2.Existence(exists=True, reason="genesis")
    existence.time.FromMilliseconds(proposal.wall_ms)
    proposal.write(domain, subject, "existence", existence, principal=principal)


def _declare_child(
    proposal: Proposal, child: ChildSection, replica: Replica, principal: str
) -> None:
    """Declares a child's domain, or grants its key where the domain stands and the key is new."""
    state = replica.state
    public_key = bytes.fromhex(child.public_key)
    record = audit_pb2.AuditRecord(
        principal=principal,
        resource=f"domains/{child.domain}",
        source="configuration",
        outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
        details={"controller": child.controller, "key_id": key_id_of(public_key)},
    )
    if not state.siblings(Key(child.domain, f"domains/{child.domain}", "authority")):
        declaration = _declaration(child, replica.config.controller.domain, public_key)
        parent_term = state.authority.term_of(replica.config.controller.domain)
        declare_domain(
            partial(proposal.write, principal=principal), declaration, parent_term, proposal.wall_ms
        )
        record.action = "domain.declared"
    elif not state.keys.knows(child.controller, key_id_of(public_key)):
        grant = new_key(state, child.controller, child.domain, public_key)
        subject = f"controllers/{child.controller}"
        proposal.write(child.domain, subject, "key_grant", grant, principal=principal)
        record.action = "key.granted"
    else:
        return
    write_audit(proposal, record, domain=replica.config.controller.domain)


def _declaration(child: ChildSection, parent: str, public_key: bytes) -> DomainDeclaration:
    sync = authority_pb2.SyncStrategy(
        mode=_MODES[child.sync.mode], batch_size=child.sync.batch_size
    )
    if child.sync.frequency_s:
        sync.frequency.FromTimedelta(timedelta(seconds=child.sync.frequency_s))
    return DomainDeclaration(
        domain=child.domain,
        spec=domain_pb2.DomainSpec(
            parent=parent, display_name=child.display_name or child.domain, kind=_KINDS[child.kind]
        ),
        master_of_record=child.master_of_record or child.controller,
        level=_LEVELS[child.level],
        controller=child.controller,
        public_key=public_key,
        autonomy=authority_pb2.Autonomy(
            can_operate_isolated=child.autonomy.can_operate_isolated,
            can_modify_policies=child.autonomy.can_modify_policies,
            can_deploy_versions=child.autonomy.can_deploy_versions,
        ),
        sync=sync,
        reason="declared by configuration",
    )
