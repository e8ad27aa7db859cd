"""The parity proof: published customers are asked of the running service again, over every protocol that it speaks."""
