"""Deterministic simulation of fleets of controllers: the real core under seeded networks, clocks and crashes."""
