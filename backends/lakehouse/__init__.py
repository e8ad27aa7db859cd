"""Iceberg through pyiceberg, the only package that knows it: pinned reads, audited publish, rollback, maintenance."""
