"""Purchase options: from runtime, usage and price to USD per run."""
