"""Presentation only: tables and plots."""
