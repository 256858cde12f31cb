"""Ways to run a federation: configuration files and units for production, a whole federation on one machine for trying
out, tests and benchmarks, and the demonstration.
"""
