"""`python -m paperworks`."""

from paperworks.cli import entry

entry()
