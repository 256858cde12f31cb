"""What a controller tells of itself: which metrics there are, and where spans begin and end. Owns the catalogue and the
hooks; decides nothing, and nothing waits for it.
"""
