"""What a service tells of itself: metrics, traces, logs, and the requests that it was asked."""
