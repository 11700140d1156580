"""A bundle on disk, checked before any part of it is used. It knows no session.

directory | hub name -> hub_cache -> bundle -> manifest (graph_entries, measurements; json_record reads them)
-> onnx_file -> graph_check, native_check -> graphs that ONNX Runtime may read
"""
