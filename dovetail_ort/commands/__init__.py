"""The sub-commands of `dovetail-ort`: each module has `add_arguments(parser)` and `run(arguments)`, its exit status."""
