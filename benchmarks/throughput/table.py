"""Tables of throughput: what each variant does a second, ratios of pairs, where the CPU seconds went."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.common import Record

Runs = Mapping[str, Mapping[str, Sequence[Record]]]
"""By part and variant: one record a repeat, `cells` by name with work, wall and cpu, and `shares` of CPU seconds."""

UNITS = {
    "stepping": "agent steps/s",
    "ppo": "agent steps/s",
    "dqn": "agent steps/s",
    "inference": "states/s",
    "replay": "transitions/s",
}
CELLS = {
    "stepping": "environments",
    "ppo": "environments",
    "dqn": "environments",
    "inference": "batch",
    "replay": "observations",
}
NETWORKS = ("forward and backward", "target values", "acting inference", "optimiser")
"""What Stable-Baselines3 does as well."""


def rates(found: Sequence[Record], cell: str, clock: str) -> list[float]:
    """Work a second of one cell, one for each repeat; `clock` is "cpu" or "wall"."""
    return [run["cells"][cell]["work"] / run["cells"][cell][clock] for run in found]


def ratios(ours: Sequence[Record], peer: Sequence[Record], cells: tuple[str, str], clock: str) -> list[float]:
    """Work a second of ours over the peer's, repeat by repeat; `cells` names the cell of each."""
    pairs = zip(rates(ours, cells[0], clock), rates(peer, cells[1], clock), strict=True)
    return [a / b for a, b in pairs]


def verdict(values: Sequence[float], wanted: float | None) -> str:
    """Whether the median is what was wanted; nothing where nothing was."""
    if wanted is None:
        return ""
    return "met" if np.median(values) >= wanted else "MISSED"


def pairs_of(part: str, found: Mapping[str, Sequence[Record]]) -> list[tuple[str, str, tuple[str, str]]]:
    """Ours, peer, and the cells of each that are compared: the same ones, but for stepping, which has one each."""
    ours = [name for name in found if name.startswith("rlkd")]
    peers = [name for name in found if not name.startswith("rlkd")]
    pairs = []
    for own in ours:
        for peer in peers:
            of_own, of_peer = (list(found[name][0]["cells"]) for name in (own, peer))
            if part == "stepping":
                pairs.append((own, peer, (of_own[0], of_peer[0])))
            else:
                pairs += [(own, peer, (cell, cell)) for cell in of_own if cell in of_peer]
    return pairs


def tables(
    runs: Runs, thresholds: Mapping[str, Mapping[str, float]], absent: Sequence[str]
) -> tuple[list[str], Record]:
    """All tables, and the ratios for the record.

    Args:
        runs: what was measured.
        thresholds: by part and peer, the ratio that is wanted.
        absent: a line for each variant that did not run, saying why.
    """
    lines = ["Medians of repeats (min to max). CPU seconds are those of the own process."]
    record: Record = {}
    for part, found in runs.items():
        lines += ["", f"| {part} | {CELLS[part]} | {UNITS[part]} per own CPU-second | {UNITS[part]} wall | cores |"]
        lines += ["|---|---|---|---|---|"]
        for name, repeats in found.items():
            for cell in repeats[0]["cells"]:
                cpu, wall = rates(repeats, cell, "cpu"), rates(repeats, cell, "wall")
                cores = [a / b for a, b in zip(wall, cpu, strict=True)]
                lines.append(f"| {name} | {cell} | {spread(cpu, 0)} | {spread(wall, 0)} | {np.median(cores):.2f} |")
    lines += [
        "",
        "| part | ours / peer | ratio per own CPU-second | ratio wall | wanted | per CPU-second | wall |",
        "|---|---|---|---|---|---|---|",
    ]
    for part, found in runs.items():
        for own, peer, cells in pairs_of(part, found):
            cpu, wall = (ratios(found[own], found[peer], cells, clock) for clock in ("cpu", "wall"))
            wanted = thresholds.get(part, {}).get(peer)
            named = f"{own} / {peer}" + (f", {CELLS[part]} {cells[0]}" if part in ("inference", "replay") else "")
            asked = "" if wanted is None else f">= {wanted:g}"
            told = f"{asked} | {verdict(cpu, wanted)} | {verdict(wall, wanted)}"
            lines.append(f"| {part} | {named} | {spread(cpu, 2)} | {spread(wall, 2)} | {told} |")
            record[f"{part}: {named}"] = {"cpu": cpu, "wall": wall, "wanted": wanted}
    lines += [f"| {line} | | | | | |" for line in absent]
    for part, found in runs.items():
        lines += shares_of(part, found)
        lines += _bounds(part, found, thresholds.get(part, {}))
    return lines, {"ratios": record, "absent": list(absent)}


def shares_of(part: str, found: Mapping[str, Sequence[Record]]) -> list[str]:
    """Where the CPU seconds of a part's variants went, largest first; no lines where nobody counted."""
    counted = {name: [run["shares"] for run in repeats] for name, repeats in found.items() if repeats[0]["shares"]}
    lines = []
    for name, repeats in counted.items():
        medians = {share: float(np.median([run.get(share, 0.0) for run in repeats])) for share in repeats[0]}
        ordered = sorted(medians.items(), key=lambda item: -item[1])
        told = ", ".join(f"{share} {value:.0%}" for share, value in ordered)
        lines += ["", f"CPU seconds of {part}, {name}: {told}."]
    return lines


def _bounds(part: str, found: Mapping[str, Sequence[Record]], wanted: Mapping[str, float]) -> list[str]:
    """Of what was missed, what the ratio would be if all but the networks' own arithmetic took no time."""
    lines = []
    for own, peer, cells in pairs_of(part, found):
        per_cpu = ratios(found[own], found[peer], cells, "cpu")
        if verdict(per_cpu, wanted.get(peer)) != "MISSED" or not found[own][0]["shares"]:
            continue
        shares = [sum(run["shares"].get(name, 0.0) for name in NETWORKS) for run in found[own]]
        bound = np.median([ratio / share for ratio, share in zip(per_cpu, shares, strict=True)])
        lines.append(
            f"- {own} / {peer}: {np.median(shares):.0%} of {own}'s CPU seconds are arithmetic that both sides do; with "
            f"all else free the ratio would be {bound:.2f}, and {wanted[peer]:g} takes faster arithmetic."
        )
    return ["", *lines] if lines else []


def spread(values: Sequence[float], digits: int) -> str:
    """Median, least and most."""
    return f"{np.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
