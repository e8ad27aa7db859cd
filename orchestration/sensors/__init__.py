"""Sensors: what is seen of the world outside Dagster, and who is told of it. One kind a file; no maths."""
