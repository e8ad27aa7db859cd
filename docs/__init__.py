"""The documentation. What makes its pictures, its generated pages and its site is in `docs/making/`."""
