"""Transformations of a target graph, one class a file; `exporter` puts them in order."""
