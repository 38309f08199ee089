"""Reads damaged files of a format in a watched process: `python -m tests.hostile COUNT FORMAT ...`.

It prints a line of JSON for each: how many were refused, read as the same or a changed policy; what else happened.
"""

import codecs
import hashlib
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlkd.errors import RlkdError
from rlkd.policy import PolicySpec, foreign, load, load_policy
from rlkd.policy.numpy_pickle import read_vecnormalize
from rlkd.policy.onnx_file import seal
from rlkd.recipe import to_table
from tests import samples

FORBIDDEN = ("exec", "compile", "import", "pickle.", "marshal.", "socket.", "subprocess.", "ctypes.dlopen", "shutil.")
"""Beginnings of audit events that no reading may raise: code, other processes, the network."""
WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pty.spawn")


def same_policy(weights: Any) -> str:
    """A digest of weights by name."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {list(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def write_ours(path: Path) -> None:
    from tests.handmade import cartpole_teacher

    cartpole_teacher().save(path)


def write_sealed(path: Path) -> None:
    from rlkd.policy import Rule
    from rlkd.policy.spec import FORMAT_VERSION

    spec = PolicySpec(
        name="small",
        kind="categorical",
        network=samples.SMALL,
        observation_shape=(4,),
        observation_dtype="float32",
        actions=2,
        rule=Rule(name="greedy"),
    )
    record = json.dumps({"format_version": FORMAT_VERSION, **to_table(spec)})
    path.write_bytes(seal(samples.onnx_model(samples.original(), record=record)))


def write_sb3(path: Path) -> None:
    from stable_baselines3 import PPO

    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, device="cpu", seed=0).save(path)


def write_vecnormalize(path: Path) -> None:
    from tests.test_numpy_pickle import statistics

    statistics("CartPole-v1").save(str(path))


Read = Callable[[Path], str]
OURS: dict[str, tuple[str, Callable[[Path], None], Read]] = {
    "policy": ("p.safetensors", write_ours, lambda path: load(path).spec.hash),
    "sealed ONNX": ("p.onnx", write_sealed, lambda path: repr(load(path).spec)),
}
"""Formats with a checksum over all that they hold."""
FOREIGN: dict[str, tuple[str, Callable[[Path], None], Read]] = {
    "SB3 zip": ("p.zip", write_sb3, lambda path: same_policy(load_policy(path).network.state_dict())),
    "VecNormalize": ("v.pkl", write_vecnormalize, lambda path: repr(read_vecnormalize(path))),
}


def imported(name: str) -> Read:
    recipe = samples.FORMATS[name][2]
    return lambda path: same_policy(load_policy(path, agent=recipe, env="cartpole").network.state_dict())


FOREIGN |= {name: (file, write, imported(name)) for name, (file, write, _) in samples.FORMATS.items()}
FORMATS = OURS | FOREIGN


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with flipped, missing, foreign, repeated or exchanged bytes; never as it was."""
    altered = bytearray(content)
    while altered == content:
        at, length = draw.randrange(len(content)), draw.choice((1, 2, 4, 8, 64, 512))
        kind = draw.randrange(5)
        if kind == 0:
            for _ in range(draw.choice((1, 1, 2, 8))):
                altered[draw.randrange(len(altered))] ^= 1 << draw.randrange(8)
        elif kind == 1:
            altered[at : draw.choice((len(content), at + length))] = b""
        elif kind == 2:
            altered[at:at] = draw.randbytes(length)
        elif kind == 3:
            altered[at:at] = content[at : at + length] * draw.choice((1, 2, 100))
        else:
            other = draw.randrange(len(content))
            altered[at : at + length], altered[other : other + length] = (
                content[other : other + length],
                content[at : at + length],
            )
    return bytes(altered)


class Watch:
    """An audit hook that notes what no reading may do, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: set[str] = set()
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note the event if it is one of those."""
        if not self.on:
            return
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes or event.startswith((*FORBIDDEN, *WRITES, *STARTS)):
            self.seen.add(f"{event} {arguments[0] if arguments else ''}"[:200])


def read_damaged(name: str, count: int, watch: Watch, folder: Path) -> dict[str, Any]:
    """Write one file of the format, read it whole, then `count` times damaged."""
    file, write, read = FORMATS[name]
    path = folder / file
    write(path)
    content, found = path.read_bytes(), {"refused": 0, "same": 0, "changed": 0}
    # Both import everything, so that no import is taken for the file's doing: what is no file of ours may be foreign.
    want = read(path)
    foreign.recipe_for(path)
    escaped, slowest = [], 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for trial in range(count):
        path.write_bytes(mutated(content, random.Random(f"{name} {trial}")))
        start = time.process_time()
        watch.on = True
        try:
            found["same" if read(path) == want else "changed"] += 1
        except RlkdError:
            found["refused"] += 1
        except Exception as error:  # noqa: BLE001  # each is a fault that the test shall name
            escaped.append(f"{trial}: {type(error).__name__}: {error}"[:200])
        watch.on = False
        slowest = max(slowest, time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        **found,
        "escaped": escaped,
        "seen": sorted(watch.seen),
        "slowest_seconds": round(slowest, 3),
        "grown_megabytes": grown // 1024,
    }


def main() -> None:
    """All formats that the command line names."""
    for encoding in ("cp437", "raw_unicode_escape", "unicode_escape", "utf-16", "utf-32"):
        codecs.lookup(encoding)  # Python's own, imported when zipfile, pickletools or json first meet them
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[2:]:
            print(json.dumps({"format": name} | read_damaged(name, int(sys.argv[1]), watch, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
