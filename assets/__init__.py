"""Thin Dagster assets, one file per stage of a model's life. No maths, no SQL engine, no environment here."""
