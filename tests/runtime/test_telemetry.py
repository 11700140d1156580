"""ONNX Runtime reports usage unless it is told not to; loading a bundle tells it."""

import os
import subprocess
import sys

GENERATE = "import sys, dovetail_ort; dovetail_ort.load(sys.argv[1]).generate('The tails')"


def test_generating_leaves_no_identifier_of_onnxruntimes_makers_behind(tiny_bundle, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", GENERATE, str(tiny_bundle)], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name.lower() or path.name == "Microsoft"]
