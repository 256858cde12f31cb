from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from controller import app
from controller.config import ControllerConfig
from controller.log.errors import LogRefused
from controller.main import EXIT_CONFIG, main
from souverix.federation.v1 import authority_pb2


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The files of a new federation, made as the help says."""
    root_key = invoke("keygen", "--out", tmp_path / "root.pem")
    assert root_key.exit_code == 0
    assert invoke("keygen", "--out", tmp_path / "global.pem").exit_code == 0
    genesis = invoke(
        *("genesis", "--root-key", tmp_path / "root.pem", "--key", tmp_path / "global.pem"),
        *("--controller", "global-control", "--out", tmp_path / "genesis.bin"),
    )
    assert genesis.exit_code == 0
    assert genesis.output == root_key.output
    (tmp_path / "global.toml").write_text(
        f"""
        [controller]
        id = "global-control"
        domain = "global"
        data_dir = "{tmp_path / "data"}"
        [log]
        kind = "sqlite"
        [trust]
        signing_key = "{tmp_path / "global.pem"}"
        root_public_key = "{root_key.output.strip()}"
        genesis = "{tmp_path / "genesis.bin"}"
        """
    )
    return tmp_path


def test_a_new_federation_is_made_as_the_help_says(made: Path) -> None:
    checked = invoke("check", "--config", made / "global.toml")
    assert checked.exit_code == 0
    assert "controller global-control of domain global" in checked.output
    genesis = authority_pb2.Genesis.FromString((made / "genesis.bin").read_bytes())
    assert genesis.domain == "global"


def test_a_key_is_readable_by_its_owner_only_and_never_overwritten(made: Path) -> None:
    path = made / "root.pem"
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = invoke("keygen", "--out", path)
    assert again.exit_code == 1
    assert "nothing was changed" in again.output
    assert path.read_bytes() == before


def test_a_genesis_is_never_overwritten_and_a_missing_key_is_named(made: Path) -> None:
    arguments = ("--controller", "c", "--key", made / "global.pem", "--out", made / "genesis.bin")
    before = (made / "genesis.bin").read_bytes()
    again = invoke("genesis", "--root-key", made / "root.pem", *arguments)
    assert again.exit_code == 1
    assert (made / "genesis.bin").read_bytes() == before
    missing = invoke("genesis", "--root-key", made / "none.pem", *arguments)
    assert missing.exit_code == 1
    assert "none.pem" in missing.output


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wrong_configuration_has_an_exit_code_of_its_own(made: Path, command: str) -> None:
    path = made / "global.toml"
    path.write_text(path.read_text().replace('kind = "sqlite"', 'kind = "paper"'))
    result = invoke(command, "--config", path)
    assert result.exit_code == EXIT_CONFIG
    assert "log.kind 'paper'" in result.output
    missing = invoke(command, "--config", made / "nowhere.toml")
    assert missing.exit_code == EXIT_CONFIG
    assert "nowhere.toml" in missing.output


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LogRefused("the log is of another version"), "the event log: the log is of another"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_a_failure_in_running_is_told_and_is_no_wrong_configuration(
    made: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    async def fail(_: ControllerConfig) -> None:
        raise error

    monkeypatch.setattr(app, "serve", fail)
    result = invoke("run", "--config", made / "global.toml")
    assert result.exit_code == 1
    assert text in result.output


def test_an_etcd_binary_given_on_the_command_line_is_used(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ControllerConfig] = []

    async def note(config: ControllerConfig) -> None:
        seen.append(config)

    monkeypatch.setattr(app, "serve", note)
    path = made / "global.toml"
    assert invoke("run", "--config", path, "--etcd-binary", "/opt/etcd").exit_code == 0
    assert invoke("run", "--config", path).exit_code == 0
    assert [config.log.etcd_binary for config in seen] == ["/opt/etcd", "etcd"]


def test_an_unknown_log_level_is_refused_with_the_known_ones(made: Path) -> None:
    result = invoke("run", "--config", made / "global.toml", "--log-level", "loud")
    assert result.exit_code == 2
    assert "warning" in result.output
