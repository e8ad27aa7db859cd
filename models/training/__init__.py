"""How a network comes to be: split, teacher, network, graph, quantization, evaluation. Offline only, never shipped."""
