"""Configurations as an operator writes them, for tests of what is made of them."""

from __future__ import annotations

from pathlib import Path

from controller.config import ControllerConfig
from controller.config_file import load_config

KEY = "ab" * 32

ROOT = f"""
[controller]
id = "global-control"
domain = "global"
data_dir = "/var/lib/souverix"

[trust]
signing_key = "/etc/souverix/key.pem"
root_public_key = "{KEY}"
genesis = "genesis.pb"
"""

ZONE = f"""
[controller]
id = "edge-a1-control"
domain = "edge-a1"
data_dir = "data"
replica = "r2"

[listen]
address = "127.0.0.1:7500"

[log]
kind = "sqlite"
lease_ttl_s = 3

[trust]
signing_key = "key.pem"
root_public_key = "{KEY}"

[parent]
controller = "region-a-control"
addresses = ["127.0.0.1:7400", "localhost:7401"]

[sync]
mode = "periodic"
frequency_s = 60

[[children]]
controller = "cell-1-control"
domain = "cell-1"
public_key = "{KEY}"
kind = "cluster"

[children.autonomy]
can_modify_policies = true

[agents]
enrolment = "open"
"""


def loaded(directory: Path, text: str) -> ControllerConfig:
    """What a controller makes of a file with the text."""
    path = directory / "controller.toml"
    path.write_text(text)
    return load_config(path)
