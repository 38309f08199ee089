"""Errors that the person at the keyboard can fix: one family, each message says what, where and what to do."""


class RlkdError(Exception):
    """Something the caller can fix. The command line prints it on one line and exits with `exit_code`."""

    exit_code = 2


class RecipeError(RlkdError):
    """A recipe cannot be found, read or combined."""


class PolicyFileError(RlkdError):
    """A policy file is damaged, of another format, or of a kind that is not read."""


class UnsafeFileError(PolicyFileError):
    """A file asks for code to be run, or refers to things outside the allow-list."""


class MismatchError(RlkdError):
    """Two parts do not fit: a teacher and a game, two action sets, a target and a divergence."""


class ExportError(RlkdError):
    """A policy cannot be expressed in another format, or what was made there does not answer as it does."""


class NotFiniteError(RlkdError):
    """NaN or infinity turned up in a run, which stopped there; its last checkpoint is whole."""


class WorkerError(RlkdError):
    """An environment in a worker process died or froze again and again; the message says how to see it happen."""


class StorageError(RlkdError):
    """The disk refused: full, not writable, or a run folder that belongs to something else."""


class OtherRunError(StorageError):
    """A run folder holds another run than the one that is asked for."""

    def __init__(self, what: str, remedy: str = "name another --run, or repeat its command to go on with it") -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        """What was found, without what to do about it: within a larger run that is something else."""


class MemoryBudgetError(RlkdError):
    """What was asked for cannot fit into memory. Raised before the run, never in the middle."""


class Stopped(RlkdError):
    """A signal asked the run to stop; everything finished so far has been saved."""

    exit_code = 3
