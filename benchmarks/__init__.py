"""How fast Tandem is: measured on real sizes, side by side in one run. Never a timed test."""
