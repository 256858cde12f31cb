"""The supply chain as pure logic: documents, signatures, and what a domain believes. Owns the judgement of artifacts;
never reads a disk, a clock or a network.
"""
