"""The controller's event log: the port, its etcd and SQLite adapters, mastership and continuity."""
