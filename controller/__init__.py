"""One controller process: the service of one domain."""
