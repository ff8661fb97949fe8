"""What to measure next: initial designs, acquisition functions, stopping rules."""
