"""Sync by file: bundles made for peers, and taken in from them. Owns export, import and what is remembered of both; the
file itself is `airgap`'s, what goes into it and how it stands to what is held here is the core's
(`federation.bundles`).
"""
