"""Every error that cellplm raises on purpose.

    CellplmError
    ├── InputError (ValueError)          a file given to us is not what it should be
    │   ├── MissingFileError (FileNotFoundError)
    │   ├── CountsError                  no raw counts, or what was given is not raw
    │   └── GenesError                   no gene recognised, or a gene the model lacks
    ├── CorpusError (ValueError)         the corpus on disk
    │   ├── NotACorpusError
    │   ├── CorruptCorpusError           an object is missing, cut or changed
    │   └── ConflictError                another writer took the same name
    ├── ConfigError (ValueError)         an option, a key or a value
    └── CheckpointError (ValueError)     a run or checkpoint folder

The command line prints the message of a CellplmError as one line and exits with 1, or with 2
for a ConfigError; anything else is a bug and shows where it came from with --debug.
"""

from __future__ import annotations


class CellplmError(Exception):
    """Base of every error raised on purpose; the message says what, where and what to do."""


class InputError(CellplmError, ValueError):
    """A file given to cellplm is not what it should be."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder is not there."""


class CountsError(InputError):
    """No raw counts were found, or what was given is not raw counts."""


class GenesError(InputError):
    """No gene was recognised, or a gene is asked for that is not known."""


class CorpusError(CellplmError, ValueError):
    """Something about a corpus on disk."""


class NotACorpusError(CorpusError):
    """The path exists and is no corpus, or is none that this version can read."""


class CorruptCorpusError(CorpusError):
    """An object of a corpus is missing, cut or changed."""


class ConflictError(CorpusError):
    """Another writer committed the same data set name first."""


class ConfigError(CellplmError, ValueError):
    """An option, a configuration key or its value."""


class CheckpointError(CellplmError, ValueError):
    """A run or checkpoint folder cannot be used."""
