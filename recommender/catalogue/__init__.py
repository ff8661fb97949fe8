"""Instance types, regions and offerings: what exists."""
