"""The online store in Redis: its address, its lines, its layout, its loader, and the store that joins them.

hiredis reads and writes the protocol; redis-py's clients do not belong here: they take longer for a lookup than Redis.
"""
