"""The command line: one file per verb, each a thin door to something callable from Python.

Here: options, tables for the terminal, exit codes. Not here: any work. Nothing heavy is imported
before a verb needs it, so that ``yarbus --help`` answers at once. Example: ``plan.py``.
"""

from yarbus.cli.app import main

__all__ = ["main"]
