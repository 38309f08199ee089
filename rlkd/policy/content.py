"""The bytes of a policy's file, or one line on why there are none."""

from pathlib import Path

from rlkd.errors import PolicyFileError


def read_content(path: Path, *, limit: int) -> bytes:
    """All bytes of a file; PolicyFileError where it is missing, cannot be read or is larger than `limit` bytes."""
    try:
        if path.stat().st_size > limit:
            raise PolicyFileError(f"{path}: larger than {limit} bytes; not a policy")
        return path.read_bytes()
    except FileNotFoundError:
        raise PolicyFileError(f"no policy at {path}") from None
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read: {error.strerror or error}") from None
