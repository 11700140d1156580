"""A bundle on disk, checked before any part of it is used.

    directory | hub name (hub_cache) -> bundle -> json_record -> manifest: graph_entries, measurements
    a manifest of an older version -> manifest_version_1 -> manifest
    graph -> onnx_file -> graph_check (native_check for native nodes) -> a graph that ONNX Runtime may read
    names that the export writes and the runtime reads: formats, graph_names, native_layout

It knows no session.
"""
