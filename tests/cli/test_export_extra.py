"""Packages of the extra [export] that are missing are told apart from faults of this program."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dovetail_ort.cli.export_extra import export_packages
from dovetail_ort_runtime.errors import UnavailableError

WITHOUT_TORCH = """
import sys
from dovetail_ort.cli.main import main

sys.modules["torch"] = None
sys.exit(main(["export", "source", sys.argv[1]]))
"""
WITH_MODULES = """
import sys
from dovetail_ort.cli.main import main

status = main(sys.argv[1:])
sys.exit(3 if "torch" in sys.modules else status)
"""


def run(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_export_without_its_packages_names_the_extra(tmp_path):
    result = run(WITHOUT_TORCH, tmp_path / "out")
    assert result.returncode == 2
    assert 'run: pip install "dovetail-ort[export]"' in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["torch", "optimum.exporters", None])
def test_a_package_that_does_not_load_is_the_extras(name):
    with pytest.raises(UnavailableError, match="needs the packages of the extra"), export_packages("exporter"):
        raise ImportError("it does not load", name=name)


@pytest.mark.parametrize("name", ["dovetail_ort_export.no_such_module", "dovetail_ort_runtime", "resource"])
def test_a_fault_of_this_program_is_not_called_a_missing_package(name):
    with pytest.raises(ImportError, match="it is not there"), export_packages("exporter"):
        raise ImportError("it is not there", name=name)


def test_a_name_that_a_module_of_ours_lacks_is_not_called_a_missing_package():
    with pytest.raises(ImportError, match="no_such_name"), export_packages("exporter"):
        from dovetail_ort_export.options import no_such_name  # noqa: F401


def test_listing_graph_passes_starts_no_torch():
    result = run(WITH_MODULES, "graph", "passes")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_comparing_graphs_starts_no_torch(tiny_bundle, tiny_bundle_fp32):
    result = run(WITH_MODULES, "graph", "diff", tiny_bundle, tiny_bundle_fp32)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
