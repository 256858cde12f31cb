"""Settings of telemetry, and their checks."""

from __future__ import annotations

import pytest

from telemetry.settings import TelemetrySettings, check, from_table


def test_by_default_nothing_is_told() -> None:
    assert not TelemetrySettings().is_on
    assert check(TelemetrySettings()) == ""
    assert from_table({}) == TelemetrySettings()


def test_a_table_is_read() -> None:
    settings = from_table(
        {
            "endpoint": "http://127.0.0.1:4317",
            "protocol": "http/protobuf",
            "sampling_ratio": 0,
            "resource_attributes": ["deployment.environment.name=lab"],
        }
    )
    assert settings.is_on
    assert settings.sampling_ratio == 0
    assert settings.resource_attributes == ("deployment.environment.name=lab",)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"endpoints": "x"}, "endpoints is no setting"),
        ({"endpoint": 1}, "endpoint"),
        ({"endpoint": "127.0.0.1:4317"}, "endpoint"),
        ({"endpoint": "http://10.0.0.1:4317"}, "only https"),
        ({"endpoint": "http://127.0.0.1"}, "endpoint"),
        ({"protocol": "thrift"}, "protocol"),
        ({"sampling_ratio": 1.5}, "sampling_ratio"),
        ({"sampling_ratio": True}, "sampling_ratio"),
        ({"prometheus_address": "9464"}, "prometheus_address"),
        ({"prometheus_address": "0.0.0.0:9464"}, "prometheus_address"),
        ({"interval_s": 0}, "interval_s"),
        ({"resource_attributes": "a=b"}, "resource_attributes"),
        ({"resource_attributes": ["a"]}, "resource_attributes"),
    ],
)
def test_what_is_wrong_is_named(table: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        from_table(table)


def test_beyond_this_host_only_tls_is_spoken() -> None:
    assert check(TelemetrySettings(endpoint="https://collector.example:4317")) == ""
