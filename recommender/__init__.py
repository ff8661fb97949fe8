"""Cloud configuration recommender."""
