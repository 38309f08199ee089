"""Whether files are what they were when they were written, and a lineage is one: nothing in a file is run."""

from collections.abc import Iterator
from pathlib import Path

import safetensors

from rlkd import storage
from rlkd.data import JsonDict
from rlkd.errors import PolicyFileError, StorageError
from rlkd.policy import PolicySpec
from rlkd.policy.file import read
from rlkd.policy.loading import shipped_file
from rlkd.policy.tensors import digest


def verify(path: str | Path) -> JsonDict:
    """What a policy's file, `policy:NAME` of a shipped one, or a run folder holds, and what is wrong with it.

    Checksums find damage, not malice: whoever alters a file and its checksum is not found out.

    Returns:
        `path`, `kind` ("policy", or the verb that made the run), `files` (how many were checked), `policies` (name,
        hash and parents' hashes of each), `problems` (a line each; none where all is well).

    Raises:
        StorageError: there is neither a file nor a run.
    """
    text = str(path)
    path = shipped_file(text.removeprefix("policy:")) if text.startswith("policy:") else Path(path)
    if path.is_file():
        problems: list[str] = []
        spec = _policy(path, problems)
        policies = [] if spec is None else [_told(path.name, spec)]
        return {"path": str(path), "kind": "policy", "files": 1, "policies": policies, "problems": problems}
    if not path.is_dir():
        raise StorageError(f"{path}: no such file or run folder")
    return _run(path)


def _run(run: Path) -> JsonDict:
    problems: list[str] = []
    specs: dict[Path, PolicySpec] = {}
    files = sorted(found for found in run.rglob("*") if found.suffix in (".safetensors", ".json") and found.is_file())
    for file in files:
        if file.suffix == ".json":
            try:
                storage.read_json(file)
            except StorageError as error:
                problems.append(str(error))
        elif _holds_policy(file, problems):
            spec = _policy(file, problems)
            if spec is not None:
                specs[file] = spec
    record = _record(run / "run.json", problems)
    kind = record.get("kind", "unfinished") if record else "unfinished"
    if not files:
        raise StorageError(f"{run}: neither run.json nor a policy; not a run folder")
    if any(run.glob("generations/*/record.json")):
        problems += _lineage(run, record)
    told = [_told(str(file.relative_to(run)), spec) for file, spec in specs.items()]
    return {"path": str(run), "kind": kind, "files": len(files), "policies": told, "problems": problems}


def _record(path: Path, problems: list[str]) -> JsonDict:
    """Content of a JSON file; empty where it is missing or damaged, which is told elsewhere."""
    try:
        found = storage.read_json(path) if path.exists() else {}
    except StorageError:
        return {}
    if not isinstance(found, dict):
        problems.append(f"{path}: not a JSON object")
        return {}
    return found


def _holds_policy(file: Path, problems: list[str]) -> bool:
    """Whether a file is a policy's; of other files of ours the checksum is looked at, where they have one."""
    try:
        with safetensors.safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            if "rlkd" in metadata:
                return True
            told = metadata.get("sha256", metadata.get("digest"))
            if told is not None:
                record = metadata.get("progress", metadata.get("record", ""))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
                if digest(record, tensors) != told:
                    problems.append(f"{file}: its content does not match its checksum; it was damaged or altered")
    except (safetensors.SafetensorError, OSError) as error:
        problems.append(f"{file}: truncated or damaged ({error})")
    return False


def _policy(file: Path, problems: list[str]) -> PolicySpec | None:
    try:
        return read(file)[0]
    except PolicyFileError as error:
        problems.append(str(error))
        return None


def _told(name: str, spec: PolicySpec) -> JsonDict:
    return {"name": name, "hash": spec.hash, "parents": list(spec.parents)}


def _lineage(run: Path, summary: JsonDict) -> Iterator[str]:
    """What is wrong with the records of generations: each has to be of its policy, and of parents that are there."""
    records: dict[str, JsonDict] = {}
    for path in sorted(run.glob("generations/*/record.json")):
        record = _record(path, [])
        texts, lists = ("name", "hash", "path", "how"), ("parents", "parent_names")
        if not all(isinstance(record.get(key), str) for key in texts) or not all(_texts(record.get(k)) for k in lists):
            yield f"{path}: not a record of a generation"
            continue
        records[str(record["name"])] = record
        if record["name"] != path.parent.name:
            yield f"{path}: is the record of {record['name']}"
    for name, record in records.items():
        file = run / str(record["path"])
        problems: list[str] = []
        spec = _policy(file, problems) if file.exists() else None
        if not file.exists():
            yield f"{file}: is missing, and {name} is recorded as finished"
        elif spec is not None and spec.hash != record["hash"]:
            yield f"{file}: was replaced: its hash is {spec.hash[:12]}, recorded is {str(record['hash'])[:12]}"
        elif spec is not None and record["how"] != "select" and list(spec.parents) != record["parents"]:
            yield f"{file}: has other parents than those that are recorded of {name}"
        for parent, told in zip(record["parent_names"], record["parents"], strict=False):
            if parent not in records:
                yield f"{name}: its parent {parent} is missing"
            elif records[parent]["hash"] != told:
                yield f"{name}: was made of another {parent} than this"
    yield from (f"{name}: is its own ancestor" for name in records if _in_a_circle(name, records))
    for row in summary.get("steps", ()):
        known = records.get(str(row.get("name")))
        if known is None or known["hash"] != row.get("hash"):
            yield f"{run / 'run.json'}: {row.get('name')} is not the one that is recorded; run its command again"


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _in_a_circle(name: str, records: dict[str, JsonDict]) -> bool:
    """Whether a generation descends from itself."""
    ahead, known = list(records[name]["parent_names"]), set()
    while ahead:
        parent = ahead.pop()
        if parent == name:
            return True
        if parent in records and parent not in known:
            known.add(parent)
            ahead += records[parent]["parent_names"]
    return False
