"""Measurements, their results, and the pages that quote them. Not in the wheel.

a measurement (timing, prompt_sets) -> machine.write_result -> results/MACHINE/NAME.json
results/MACHINE/NAME.json -> result_files -> tables -> render -> README.md, docs
benchmarks.mk: a `make` target for each measurement
"""
