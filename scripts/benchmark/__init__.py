"""The modules of scripts/bench; each one imports only from those before it.

programs, machine: what is run, and what the machine does by itself. tools: what saves and restores
a program. figures, limits, report: what becomes of the rounds. workbench: what all parts measure
with. parts: what is measured.
"""
