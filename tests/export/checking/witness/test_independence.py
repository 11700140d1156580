"""The witness is worth something only while it shares nothing with what it checks."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import dovetail_ort_export.checking.witness
of_ours = "dovetail_ort_export"
checking = of_ours + ".checking"
shared = {name for name in sys.modules if name.startswith(of_ours) and not name.startswith(checking + ".witness")}
assert shared == {of_ours, checking}, shared
assert not {"transformers", "optimum", "onnx"} & set(sys.modules)
"""


def test_the_witness_imports_no_model_library_and_nothing_of_the_export():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
