"""The outside world, one system a file: the embedded default and the real engine behind one face."""
