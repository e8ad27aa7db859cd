"""A telecom company to try Tandem on: seeded customers, and a churn process whose best possible model is known."""
