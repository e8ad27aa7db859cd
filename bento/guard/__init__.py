"""Who may ask a service, how much, how fast, and how many at once."""
