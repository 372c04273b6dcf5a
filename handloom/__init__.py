"""Handloom turns video that people already have into training data for robot foundation models."""

__version__ = "0.1.0"
