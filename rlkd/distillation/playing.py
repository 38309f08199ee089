"""A round of a run's data: collected and kept in the run's folder, or taken from there."""

from collections.abc import Sequence
from pathlib import Path

from rlkd import metrics
from rlkd.collect import Collector, keep_round, round_file, take_round
from rlkd.data import JsonDict
from rlkd.errors import StorageError
from rlkd.policy import Policy
from rlkd.replay import Replay


def play_round(
    player: Collector,
    replay: Replay,
    number: int,
    students: Sequence[Policy],
    *,
    folder: Path,
    about: JsonDict,
    named: str | None,
    stop: metrics.StopSignal,
) -> str:
    """Fill a replay up to the end of a round: from its file where it is there.

    The round's file is there, whole, when this returns: a checkpoint may count on it.

    Args:
        player: at the end of the round before.
        replay: the same.
        number: of the round, from 0.
        students: who act where the teacher does not.
        folder: of the rounds' files.
        about: which run it is.
        named: checksum of the round that a checkpoint counts on; None where none does. Then a damaged file is
            collected anew, and one line says so.
        stop: of the run.

    Returns:
        The checksum of the round.

    Raises:
        StorageError: a round that is counted on is damaged or gone, or environments do not do what they did.
        Stopped: while they played earlier rounds again.
    """
    path, known, found = round_file(folder, number), None, ""
    about = about | {"round": number}
    if named is not None or path.exists():
        try:
            known, found = take_round(path, about)
            if named not in (None, found):
                raise StorageError(f"{path}: not the one that was written")
        except StorageError as error:
            if named is not None:
                raise StorageError(
                    f"{error}; students have learnt since it was played: put it back as it was, or name another --run"
                ) from None
            metrics.say(f"{error}; its round is collected anew")
    if known is None:
        return keep_round(path, player.collect(replay, number, students, stop), about)
    player.take_up(replay, known)
    return found
