"""The lockdown of a box: its zones, the verdict for every pair of them, and the one ruleset.

Pure: a box is described by settings, and what comes out is text. Nothing here asks a kernel.
"""
