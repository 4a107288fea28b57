"""Measuring segmentations."""
