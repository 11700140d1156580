"""The command line around the commands: parsing, arguments that commands share, and what they print.

main -> commands/NAME.add_arguments, run; arguments -> LoadOptions, GenerationOptions, Model
commands -> answer_printer, bundle_lines (what is in a bundle), export_extra (packages of the extra), terminal
"""
