"""How masters agree: the sans-IO core of the federation."""
