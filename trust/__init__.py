"""What every program of the project shares of trust: names, keys, certificates, the files they lie in, and channels
made of them. Imports the standard library and `cryptography` only; gRPC in `channels` alone. Knows no service and no
clock: times come in as arguments.

Each certificate names one domain, and reaches no further than that domain's subtree: docs/security.md.
"""
