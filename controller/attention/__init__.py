"""The attention queue: what an operator should look at first. Owns kinds of causes, when each stands, what it weighs,
how many of a kind are taken together, and what a mark means; sans-IO: never reads a clock, a log or a link.
"""
