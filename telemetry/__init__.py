"""What every program of the project shares to tell of itself: trace contexts, spans, instruments, and where they go.
Owns these ports and their one adapter to OpenTelemetry; knows no service. Imports none of the other packages.

Off costs nothing: unless settings ask for it no OpenTelemetry package is imported, and none needs to be installed.
"""
