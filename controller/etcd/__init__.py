"""Thin asyncio etcd v3 client; knows etcd and nothing of the event log."""
