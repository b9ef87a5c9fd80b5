"""What can be wrong with data, as exceptions a caller can tell apart."""

from __future__ import annotations


class DataError(ValueError):
    """The data do not have the form asked for; the message names file, row and column, and what to do."""


class DataMissing(DataError):
    """A file is not on this machine and could not be fetched; the message says where to put it."""


class DataCorrupt(DataError):
    """A file is there but is not the file it should be: truncated, altered, or another version."""
