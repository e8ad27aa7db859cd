"""What makes the generated parts of the documentation: the declaration's reference, and the pictures."""
