"""Tests of the benchmark `reliability`: a few cases of each row, each beside the control that must fail."""

import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.reliability import curves, full, kills, resumes, stops, versions, writers
from benchmarks.reliability.__main__ import BY_TWOS, QUICK, ROWS, WHOLE, rows
from benchmarks.reliability.commands import (
    EVERY_ROUND,
    LINE,
    events,
    finished,
    lines_of,
    put_recipes,
    put_teacher,
    started,
    until,
    workplace,
)
from benchmarks.reliability.commands import killed as killed_process
from benchmarks.reliability.crashes import emptied, tried
from benchmarks.reliability.disk import Disk, Step, cuts, killed, powerless
from benchmarks.reliability.outcome import Outcome, Trials, table, upper_bound
from benchmarks.reliability.saves import FILES, WAYS, Saved
from benchmarks.reliability.watch import traced, watched
from rlkd.lineage import evolve

POLICY, RECORD = FILES[0], FILES[-1]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in which fsync is quick."""
    with workplace() as folder:
        yield folder


def names(saved: Saved) -> str:
    return saved.name


def test_zero_failures_in_n_trials_still_allow_about_three_in_n() -> None:
    for n in (50, 200, 1000):
        assert upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n))
        assert upper_bound(0, n) == pytest.approx(3 / n, rel=0.05)
    # By the definition: with this chance, so few failures come up in 5 % of all such trials.
    p = upper_bound(1, 20)
    assert (1 - p) ** 20 + 20 * p * (1 - p) ** 19 == pytest.approx(0.05)
    assert upper_bound(0, 0) == upper_bound(4, 4) == 1


def outcome(failures: int, *controls: int, n: int = 10, exhaustive: bool = False) -> Outcome:
    return Outcome(
        row="7",
        promise="holds",
        trials=Trials("kills", n, failures),
        controls=tuple(Trials("none", 10, each) for each in controls),
        exhaustive=exhaustive,
    )


def test_a_row_whose_control_does_not_fail_proves_nothing() -> None:
    assert outcome(0, 3).verdict == "met"
    assert outcome(1, 3).verdict == "MISSED"
    assert outcome(0, 3, 0).verdict == outcome(1, 0).verdict == "proves nothing"
    assert outcome(0).verdict == outcome(0, 3, n=0).verdict == "proves nothing"
    text = "\n".join(table([outcome(0, 3), outcome(0, 3, exhaustive=True)]))
    assert "| 10 kills | 0 | 25.89% | none: 3 of 10 | 0 | met |" in text
    assert "| all points of the model |" in text


def test_larger_counts_are_counts_of_all_rows_that_draw() -> None:
    assert (QUICK.times(3).kills, QUICK.times(3).versions) == (3 * QUICK.kills, QUICK.versions)
    assert list(rows(Path(), WHOLE, random.Random(0))) == ["1", "2", "3", "4", "5", "10", "11", "17", "21"]
    assert set(BY_TWOS) < set(ROWS)


def test_a_killed_process_leaves_every_prefix_of_its_steps_and_a_power_loss_what_was_not_synced_in_any_order() -> None:
    before = Disk({"file": 1}, {1: b"old"})
    steps = [Step("create", "new", 2), Step("write", file=2, content=b"abc"), Step("rename", "new", 2, to="file")]
    left = [disk.files() for _, disk in killed(before, steps)]
    old = {"file": b"old"}
    torn = [old | {"new": content} for content in (b"", b"", b"a", b"ab", b"abc")]
    assert left == [old, *torn, {"file": b"abc"}]
    draws = random.Random(0)
    after = [disk.files() for over, disk in powerless(before, steps, reorderings=0, draws=draws) if over == 3]
    for content in (b"", b"a", b"ab", b"abc", bytes(3)):
        assert {"file": content} in after  # the rename is there, and only so much of what was written
        assert old | {"new": content} in after
    assert old in after
    synced = [*steps[:2], Step("sync", file=2), steps[2], Step("sync folder", ".")]
    assert [disk.files() for over, disk in powerless(before, synced, reorderings=0, draws=draws) if over == 5] == [
        {"file": b"abc"}
    ]


def test_a_write_breaks_off_between_sectors_and_beside_its_ends() -> None:
    assert cuts(1300) == [0, 1, 512, 1024, 1299]
    assert cuts(0) == []


def test_all_is_seen_that_a_save_does_and_what_is_not_is_an_error(memory: Path) -> None:
    with watched(memory) as steps, (memory / "file").open("xb") as file:
        file.write(b"abc")
    assert [(step.kind, step.content) for step in steps] == [("create", b""), ("write", b"abc")]
    with pytest.raises(RuntimeError, match="not all was seen"):
        traced(memory, lambda: subprocess.run(["touch", str(memory / "unseen")], check=True))


@pytest.mark.parametrize("saved", FILES, ids=names)
def test_a_save_survives_a_kill_at_any_step(saved: Saved, memory: Path) -> None:
    found = tried(memory, saved, "as it is")
    assert found.n > 30
    assert found.failures == 0


@pytest.mark.parametrize("saved", [POLICY, RECORD], ids=names)
def test_a_save_survives_a_power_loss_at_any_step_and_lasts_once_it_is_over(saved: Saved, memory: Path) -> None:
    found = tried(memory, saved, "as it is", power=True, reorderings=1, draws=random.Random(0))
    assert found.n > 60
    assert found.failures == 0


@pytest.mark.parametrize("way", [way for way in WAYS if way != "as it is"])
def test_other_ways_of_saving_do_not(way: str, memory: Path) -> None:
    assert tried(memory, RECORD, way, power=True).failures > 0
    of_kills = tried(memory, RECORD, way).failures
    assert (of_kills == 0) == way.startswith("no fsync")


@pytest.mark.parametrize("saved", [POLICY, RECORD], ids=names)
def test_a_disk_that_is_full_after_some_bytes_keeps_the_old_file(saved: Saved, memory: Path) -> None:
    assert full.after_some_bytes(memory / "run", saved, 5) == Trials(saved.what, 5, 0)


def test_torch_save_loses_it(memory: Path) -> None:
    assert full.torch_save(memory / "run", 4).failures == 4


def test_a_disk_that_really_fills_up(memory: Path) -> None:
    with full.small_disk(memory) as disk:
        if disk is None:
            pytest.skip("needs the right to mount a small disk")
        found = full.on_a_small_disk(disk, POLICY)
    assert found.n > 2
    assert found.failures == 0


def test_a_second_writer_is_refused_and_without_the_lock_it_is_not(memory: Path) -> None:
    assert writers.second_refused_third_let_in(emptied(memory / "held"))
    assert writers.both_write(emptied(memory / "unlocked"))


def test_metrics_are_one_curve_after_a_kill_and_two_where_nothing_is_cut_back(memory: Path) -> None:
    found = curves.written(emptied(memory / "curves"), 1, random.Random(0))
    assert (found.kills, found.lost, found.single) == (1, 0, True)
    assert not curves.written(memory / "curves", 0, random.Random(0), mode="blind").single


@pytest.fixture
def work(memory: Path) -> Path:
    """A folder with the teacher and the recipes of small runs."""
    put_teacher(memory)
    put_recipes(memory, rounds=4, gradient_steps=100, generations=1)
    return memory


def test_a_lineage_that_was_killed_comes_to_the_same_bits(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    evolve("teacher.safetensors", LINE, run="whole", episodes=4)
    promised: list[dict[str, bytes]] = []
    there, interrupted = kills.generations, kills.interrupted
    monkeypatch.setattr(kills, "generations", lambda run: there(run) | {"a file": b"of a generation"})
    monkeypatch.setattr(kills, "interrupted", lambda *words, **named: noted(promised, interrupted(*words, **named)))
    found = kills.killed_lineage(work, LINE, 1, random.Random(1))
    assert (found.kills, found.lost) == (1, 0)
    assert [each.get("a file") for each in promised] == [b"of a generation"]  # else nothing could be lost
    assert found.left == kills.left_by(work / "whole")
    assert found.left.keys() >= {"generations/001/policy.safetensors", "generations/001/distill/metrics.jsonl"}


def noted(into: list[dict[str, bytes]], found: list[dict[str, bytes]]) -> list[dict[str, bytes]]:
    into += found
    return found


def test_what_is_missing_or_other_after_a_kill_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [{}, {"a": b"1"}, {"a": b"1", "b": b"2"}, {"a": b"0"}, {"c": b"3"}]
    monkeypatch.setattr(kills, "interrupted", lambda *_, **__: before)
    monkeypatch.setattr(kills, "generations", lambda _: {"a": b"1", "b": b"2"})
    found = kills.killed_lineage(tmp_path, LINE, 5, random.Random(0))
    assert (found.kills, found.lost) == (5, 2)


def test_a_distillation_that_was_killed_comes_to_the_same_bits_unless_it_forgets(memory: Path) -> None:
    folder, draws = emptied(memory / "resumes"), random.Random(1)
    command = resumes.put(folder, resumes.WORLDS["CartPole"])
    finished([*command, "whole"], folder, first=EVERY_ROUND)
    whole = resumes.end_of(folder / "whole")
    assert whole.keys() == {"student.safetensors", "metrics.jsonl"}
    assert resumes.cut(folder, command, 1, EVERY_ROUND, draws) == (whole, 1)
    learnt = folder / "cut" / "metrics.jsonl"
    process = started([*command, "other"], folder, first=EVERY_ROUND)
    until(lambda: len(lines_of(folder / "other" / "metrics.jsonl")) == 2, process)
    assert killed_process(process)
    finished([*command, "other"], folder, first=EVERY_ROUND + resumes.FORGETFUL)
    assert resumes.end_of(folder / "other") != whole
    assert len(lines_of(learnt)) == resumes.ROUNDS


def test_a_signal_loses_no_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stops.LINES, "distill", 4)
    found = stops.stopped(work, "distill", 1, random.Random(0), first="")
    assert (found.signals, found.wrong) == (1, 0)
    assert len(lines_of(work / stops.RUN / "metrics.jsonl")) >= 4


def test_a_version_counts_as_told_where_it_or_its_package_is_named() -> None:
    assert versions.names("going on under torch 0.0.1, begun under 2.13.0", "torch")
    assert versions.names("another version, 0.0.1", "torch")
    assert not versions.names("pytorch_thing: 12 of 20 steps", "torch")
    assert not versions.names("", "torch")


def test_events_of_a_run_are_seen_while_folders_of_it_are_removed(tmp_path: Path) -> None:
    kept, passing = tmp_path / "metrics.jsonl", tmp_path / "a" / "replay"
    kept.write_text('{"step": 1}\n')
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            passing.mkdir(parents=True)
            (passing / "policy.safetensors").touch()
            shutil.rmtree(tmp_path / "a")

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(come_and_go)
        try:
            assert all('metrics.jsonl {"step": 1}' in events(tmp_path) for _ in range(2000))
        finally:
            over.set()
        going.result()
