"""A bundle on disk, which is checked before anything of it is used.

directory | hub name -> hub_cache -> bundle -> manifest (json_record, measurements)
-> graph_check, native_check -> graphs that ONNX Runtime may read
"""
