"""The reference node agent."""
