"""Listeners to the worker's events."""
