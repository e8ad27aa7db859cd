"""What runs when, and the wiring: definitions, schedules, sensors and the command line."""
