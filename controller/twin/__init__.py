"""Twins: nodes, domains and policies composed from the facts known here. Pure: reads facts, writes none."""
