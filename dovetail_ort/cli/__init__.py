"""The command line around the commands: parsing, arguments that commands share, and what they print.

main -> commands/NAME.add_arguments, run; arguments -> LoadOptions, GenerationOptions; answer_printer, bundle_lines
"""
