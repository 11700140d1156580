"""The witness is worth something only while it shares nothing with what it checks."""

import subprocess
import sys

PROGRAM = """
import sys
import dovetail_ort_export.witness
of_ours = "dovetail_ort_export"
shared = {name for name in sys.modules if name.startswith(of_ours) and not name.startswith(of_ours + ".witness")}
assert shared == {of_ours}, shared
assert not {"transformers", "optimum", "onnx"} & set(sys.modules)
"""


def test_the_witness_imports_no_model_library_and_nothing_of_the_export():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
