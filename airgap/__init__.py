"""Bundles: events in a signed file, for controllers between which there is no link (design §7).

Owns the file: its layout, limits, signature, encryption, and every reason for which one is refused. Knows no
controller: what goes into a file, and what becomes of what comes out, is decided elsewhere.

    magic | length | SignedManifest | segment | segment | …

The manifest stands first and is signed, and names length and hash of every segment. So nothing of a file is looked at
before who wrote it is known, and nothing of a segment before it is known to be the one that was written.
"""
