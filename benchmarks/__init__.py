"""What the project reaches, measured on real processes. Each benchmark is a module with `run`, which measures a value
and, in the same run, what it is to be compared with; it never asserts a target (docs/performance.md does the judging).
"""
