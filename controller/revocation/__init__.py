"""Which certificates are revoked, and what follows from that. Owns how a revocation is named, what the facts together
revoke, and who still calls with what was revoked; never reads a certificate, refuses no call, and tells no time.
"""
