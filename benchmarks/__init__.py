"""Measurements, their results, and the pages that quote them. Not in the wheel."""
