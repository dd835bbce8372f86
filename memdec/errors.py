"""The one family of errors that a user can cause; the command line prints them on one line."""


class MemdecError(Exception):
    """A mistake or a condition that the user can mend; its text is one sentence that says how."""


class ConfigError(MemdecError, ValueError):
    """A setting is unknown, of the wrong type, out of range or at odds with another."""


class DataError(MemdecError, ValueError):
    """Input text, a model folder or a record is missing, broken or of the wrong kind."""


class ArtifactError(MemdecError, RuntimeError):
    """A stage's output is damaged, locked, does not fit its inputs, or has no room on the disk."""


class MissingExtraError(MemdecError, ImportError):
    """An optional dependency is needed; the text names the extra to install."""
