"""Heads that others have trained, measured on text that a target writes itself: which reading is right, what it brings.

It knows no bundle that is written.
"""
