"""Policies that remember: as teachers, as students, and a student that reads more frames than its teacher."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkd import storage
from rlkd.collect import Collector
from rlkd.distillation import measure_baseline, run_distillation
from rlkd.distillation.checks import check_parts
from rlkd.distillation.lesson import Seen, sequence_starts
from rlkd.distillation.record import run_record
from rlkd.distillation.student import Plan, Student
from rlkd.errors import MismatchError
from rlkd.evaluation import agreement, mean_kl, play
from rlkd.evaluation.agreement import BURN_IN, SEQUENCE, answers
from rlkd.evaluation.players import Seat
from rlkd.lineage import evolve
from rlkd.metrics import read_metrics
from rlkd.policy import PARAMS, Policy, PolicyNetwork, as_policy, decide, load_policy
from rlkd.policy.rule import GREEDY
from rlkd.recipe import Distill, Environment, Network, Source, dump
from rlkd.replay import Replay
from rlkd.report import write_report
from tests.handmade import TINY, TINY_PIXELS, environment, learn_alone, loss_of, policy, small_distillation
from tests.small_run import Page

CARTPOLE = environment("cartpole", frame_cap=60)
PENDULUM = environment("pendulum", frame_cap=100)  # whose games are never shorter
PONG = environment("foreign/pong_baby_a3c", frame_cap=400)
STACKED = environment("foreign/pong_baby_a3c_stacked", frame_cap=400)
GRU = Network(encoder="mlp", hidden=(8,), core="gru", core_width=8)
LSTM = replace(GRU, core="lstm")
PIXEL_GRU = replace(TINY_PIXELS, core="gru", core_width=8)


def teacher(network: Network = GRU, *, recipe: Environment = CARTPOLE) -> Policy:
    """One whose random weights are large enough for its memory to matter."""
    made = policy(recipe, "gaussian" if recipe is PENDULUM else "categorical", network, rule="sampled", sharpness=8.0)
    with torch.no_grad():
        for name, tensor in made.network.named_parameters():
            if name.startswith("core.weight"):
                tensor.mul_(3)
    return Policy(made.network, made.spec)


def collected(
    actor: Policy, source: Source, recipe: Environment, students: list[Policy] | None = None, *, seed: int = 0
) -> Replay:
    outputs = actor.spec.actions * len(PARAMS[actor.spec.kind])
    shape = (recipe.views["pixels"].stack, 80, 80) if recipe.views else actor.spec.observation_shape
    replay = Replay(source.num_envs, source.states, shape, outputs, recipe.views.get("pixels"))
    collector = Collector(recipe, actor, source, seed=seed, precision="float32")
    try:
        for number in range(source.rounds):
            collector.collect(replay, number, students or [])
    finally:
        collector.close()
    return replay


def by_env(replay: Replay) -> list[np.ndarray]:
    """Addresses of each environment's states, in playing order."""
    return [
        replay.rows(np.where(np.arange(replay.num_envs) == env, replay.filled, 0)) for env in range(replay.num_envs)
    ]


@pytest.mark.parametrize("network", [GRU, LSTM, TINY])
def test_an_unrolled_sequence_is_answered_as_step_by_step(network: Network) -> None:
    made = teacher(network)
    generator = np.random.default_rng(0)
    observation = torch.from_numpy(generator.normal(size=(3, 7, 4)).astype(np.float32))
    first = torch.from_numpy(generator.random((3, 7)) < 0.3)
    with torch.inference_mode():
        together = made.network.unroll(observation, first)
        state, rows = made.initial_state(3), []
        for t in range(7):
            output = made(observation[:, t], state, first[:, t].numpy())
            state = output.state
            rows.append(output.flat)
    assert torch.allclose(together.flat, torch.stack(rows, 1).flatten(0, 1), atol=1e-6)
    assert (state is None) == (together.state is None)
    if state is not None and together.state is not None:
        assert torch.allclose(state, together.state, atol=1e-6)


@pytest.mark.parametrize("recipe", [CARTPOLE, PONG], ids=["cartpole", "pong"])
def test_the_stored_answers_of_a_recurrent_teacher_come_from_the_whole_episode(recipe: Environment) -> None:
    actor = teacher(PIXEL_GRU if recipe is PONG else GRU, recipe=recipe)
    source = Source(states=320, rounds=2, num_envs=4, epsilon=0.1, teacher_fraction=(1.0, 0.5))
    student = teacher(replace(actor.spec.network, core_width=4), recipe=recipe)
    replay = collected(actor, source, recipe, [student])
    begins = 0
    for rows in by_env(replay):
        observation, stored = replay.read(rows)
        first = replay.begins(rows)
        begins += int(first.sum())
        state, want = actor.initial_state(1), []
        for t in range(len(rows)):
            with torch.inference_mode():
                output = actor(observation[t : t + 1].numpy(), state, first[t : t + 1])
            state = output.state
            want.append(output.flat)
        assert torch.allclose(stored, torch.cat(want), atol=1e-4)
    assert begins > (4 if recipe is CARTPOLE else 3)
    if recipe is CARTPOLE:  # without its memory, the same teacher answers otherwise
        fresh = actor(observation.numpy(), actor.initial_state(len(observation))).flat
        assert not torch.allclose(stored, fresh, atol=1e-2)


def test_an_acting_recurrent_student_remembers_what_it_saw_while_the_teacher_acted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actor, student = teacher(), teacher(replace(GRU, core_width=4))
    states: list[np.ndarray] = []
    ask = Policy.__call__

    def spy(self: Policy, observation, state=None, episode_start=None):  # type: ignore[no-untyped-def]  # as it is called
        output = ask(self, observation, state, episode_start)
        if self is student:
            assert output.state is not None
            states.append(output.state.clone().numpy())
        return output

    monkeypatch.setattr(Policy, "__call__", spy)
    source = Source(states=320, rounds=2, num_envs=2, epsilon=0.0, teacher_fraction=(1.0, 0.5))
    replay = collected(actor, source, CARTPOLE, [student])
    monkeypatch.undo()
    rows = by_env(replay)[0]
    observation = replay.read(rows)[0]
    first = torch.from_numpy(replay.begins(rows))
    start = int(np.flatnonzero(replay.begins(rows)[100:])[0]) + 100  # an episode of the second round
    length = 5
    with torch.inference_mode():
        want = student.network.unroll(observation[None, start : start + length], first[None, start : start + length])
    assert want.state is not None
    distances = [float(np.abs(each[0] - want.state.numpy()[0]).max()) for each in states]
    assert min(distances) < 1e-5


def test_samples_of_a_recurrent_student_are_states_in_a_row_and_their_burn_in_has_no_weight() -> None:
    actor = teacher()
    source = Source(states=800, rounds=1, num_envs=4)
    replay = collected(actor, source, CARTPOLE)
    recipe: Distill = small_distillation(batch_size=4 * SEQUENCE)
    student = Student(Plan("gru", GRU), recipe, actor.spec, seed=0, device=torch.device("cpu"))
    rows = replay.rows()
    starts = sequence_starts(rows)
    assert 0 < len(starts) < len(rows)
    batch = student._minibatch(Seen(replay, rows), starts[:4], np.arange(len(rows)))
    assert batch.observation.shape == (4, SEQUENCE, 4)
    assert batch.targets[0].shape == (4, SEQUENCE, 2)
    assert batch.first is not None
    for k in range(4):
        at = rows[starts[k]] + np.arange(SEQUENCE)
        assert torch.equal(batch.observation[k], replay.read(at)[0])
        assert batch.first[k].tolist() == replay.begins(at).tolist()
        begun = False
        for t in range(SEQUENCE):
            begun = begun or bool(batch.first[k, t])
            assert (batch.share[k, t] > 0) == (begun or t >= BURN_IN)
    assert float(batch.share.sum()) == pytest.approx(1)
    pieces = batch.chunk(2)
    assert torch.equal(torch.cat([piece.share for piece in pieces]), batch.share)


def test_what_was_remembered_is_forgotten_where_one_environments_states_end_and_anothers_begin() -> None:
    replay = collected(teacher(), Source(states=800, rounds=1, num_envs=4), CARTPOLE)
    rows = replay.rows()
    starts = sequence_starts(rows)
    crossing = [start for start in starts if start // 200 != (start + SEQUENCE - 1) // 200]
    assert crossing
    for start in crossing:
        border = 200 * (start // 200 + 1)
        assert replay.begins(rows[border : border + 1]).all()
    apart = np.concatenate([np.arange(40), np.arange(100, 100 + SEQUENCE)])
    assert sequence_starts(apart).tolist() == [*range(40 - SEQUENCE + 1), 40]


def test_a_student_with_memory_comes_nearer_to_a_teacher_with_memory_than_one_without() -> None:
    actor, source = teacher(), Source(states=6000, rounds=1, num_envs=8)
    replay, held_out = collected(actor, source, CARTPOLE), collected(actor, source, CARTPOLE, seed=1)
    recipe = small_distillation(gradient_steps=600, batch_size=256)
    kl = {}
    for name, network in (("gru", replace(GRU, core_width=16)), ("mlp", Network(encoder="mlp", hidden=(32, 32)))):
        student = Student(Plan(name, network), recipe, actor.spec, seed=0, device=torch.device("cpu"))
        learn_alone(student, replay, replay.rows(), recipe.gradient_steps, "float32")
        rows = np.stack(by_env(held_out))
        observation, answers = held_out.read(rows.ravel())
        with torch.inference_mode():
            first = torch.from_numpy(held_out.begins(rows))
            output = student.network.unroll(observation.reshape(*rows.shape, 4), first)
        kl[name] = float(loss_of(recipe.terms, "categorical", answers, output).mean())
    assert kl["gru"] < 0.5 * kl["mlp"]


def test_an_exact_copy_of_a_recurrent_policy_agrees_on_every_state() -> None:
    actor = teacher(recipe=PENDULUM)
    played = play(actor, episodes=6, keep_states=4 * SEQUENCE, stretch=SEQUENCE)
    assert len(played.states) % SEQUENCE == 0
    assert len(answers(actor, played.states, SEQUENCE)) == len(played.states) * (SEQUENCE - BURN_IN) // SEQUENCE
    assert agreement(actor, actor, played.states, stretch=SEQUENCE) == 1
    assert mean_kl(actor, actor, played.states, teacher_temperature=1.0, stretch=SEQUENCE) == pytest.approx(0, abs=1e-6)


def test_a_teacher_of_single_frames_plays_the_same_game_where_frames_are_stacked() -> None:
    actor = teacher(PIXEL_GRU, recipe=PONG)
    alone = play(actor, PONG, episodes=2).evaluation
    stacked = play(actor, STACKED, episodes=2).evaluation
    assert (alone.scores, alone.steps) == (stacked.scores, stacked.steps)
    with pytest.raises(MismatchError, match="reads observations of shape"):
        play(policy(STACKED, "categorical", TINY_PIXELS), PONG)


def test_a_student_reads_the_whole_stack_of_which_its_teacher_reads_the_newest_frame(tmp_path: Path) -> None:
    recipe = small_distillation(source=Source(states=160, rounds=2, num_envs=2), gradient_steps=4)
    actor = as_policy(teacher(PIXEL_GRU, recipe=PONG), env=STACKED)
    result = run_distillation(actor, {"tiny": TINY_PIXELS}, recipe, run=tmp_path, seed=0, episodes=1)
    student = result.students[0].policy
    assert student.spec.observation_shape == (4, 80, 80)
    assert student.spec.environment == STACKED
    assert actor.spec.observation_shape == (1, 80, 80)


def test_too_few_states_in_a_row_are_refused_with_the_remedy(tmp_path: Path) -> None:
    recipe = small_distillation(source=Source(states=800, rounds=4, num_envs=8))
    with pytest.raises(MismatchError, match="32 states in a row, the first round brings 25"):
        run_distillation(teacher(), {"gru": GRU}, recipe, run=tmp_path, seed=0)
    enough = replace(recipe, source=replace(recipe.source, states=8 * 4 * SEQUENCE))
    check_parts(teacher(), {"gru": GRU}, enough, CARTPOLE)


@pytest.mark.parametrize("network", [GRU, LSTM])
def test_a_recurrent_policy_predicts_as_it_answers(network: Network) -> None:
    made = teacher(network)
    observation = np.random.default_rng(1).normal(size=(5, 2, 4)).astype(np.float32)
    state = None
    tensor = made.initial_state(2)
    for t in range(5):
        action, state = made.predict(observation[t], state, deterministic=True)
        with torch.inference_mode():
            output = made(observation[t], tensor)
        tensor = output.state
        want = decide("categorical", output.numpy(), replace(made.spec.rule, name="greedy"), np.zeros((2, 4)))
        assert action.tolist() == want.tolist()
        assert tensor is not None
        assert state is not None
        np.testing.assert_allclose(state, tensor.numpy(), atol=1e-6)


def test_unrolling_has_the_gradient_of_stepping() -> None:
    network = PolicyNetwork(GRU, (4,), "categorical", 2)
    network.initialise(torch.Generator().manual_seed(0), for_rl=False)
    observation, first = torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool)
    first[0, 3] = True
    assert network.core is not None
    weights = list(network.core.parameters())
    together = torch.autograd.grad(network.unroll(observation, first).flat.square().sum(), weights)
    state: torch.Tensor | None = torch.zeros(2, 8)
    total = torch.zeros(())
    for t in range(6):
        assert state is not None
        output = network(observation[:, t], state * ~first[:, t, None])
        state = output.state
        total = total + output.flat.square().sum()
    for one, other in zip(together, torch.autograd.grad(total, weights), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_generations_may_remember(tmp_path: Path) -> None:
    own = tmp_path / "short.toml"
    distilling = small_distillation(source=Source(states=800, rounds=2, num_envs=8), held_out_states=64)
    own.write_text(dump(distilling))
    founder = teacher(recipe=PENDULUM)
    record = evolve(
        founder, run=tmp_path / "line", generations=2, episodes=3, overrides=[f"distill={own}", "student=same"]
    )
    assert [entry["number"] for entry in record["generations"]] == [0, 1, 2]
    youngest = load_policy(tmp_path / "line" / record["generations"][2]["path"])
    assert youngest.recurrent
    assert youngest.spec.rule == founder.spec.rule


def test_a_baseline_of_single_states_does_not_serve_policies_that_remember(tmp_path: Path) -> None:
    actor = teacher(recipe=PENDULUM)
    baseline = measure_baseline(actor, PENDULUM, episodes=2, keep_states=8)
    recipe = small_distillation(source=Source(states=800, rounds=2, num_envs=8))
    with pytest.raises(MismatchError, match="32 states in a row"):
        run_distillation(actor, {"gru": GRU}, recipe, run=tmp_path, seed=0, baseline=baseline)


def test_a_game_shorter_than_a_stretch_is_filled_up_with_its_last_state() -> None:
    seat = Seat(0, 7, draws=1, keep=2, stretch=4)
    for step in range(3):
        seat.visit(np.array([step]))
        seat.step += 1
    assert [[int(state[0]) for state in stretch] for stretch in seat.kept()] == [[0, 1, 2, 2]]
    seat.visit(np.array([3]))
    seat.step += 1
    seat.visit(np.array([4]))
    assert [[int(state[0]) for state in stretch] for stretch in seat.kept()] == [[0, 1, 2, 3]]


def test_a_report_shows_how_policies_that_remember_play(tmp_path: Path) -> None:
    recipe = small_distillation(source=Source(states=800, rounds=2, num_envs=8))
    where = environment("cartpole", frame_cap=60, episodes=3)
    result = run_distillation(
        teacher(recipe=where), {"gru": GRU, "tiny": TINY}, recipe, run=tmp_path, seed=0, episodes=3
    )
    storage.write_json(tmp_path / "run.json", run_record(result, where, seed=0, command="rlkd distill"))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "Not shown" not in page.text
    assert "They prefer different actions on" in page.text


def test_a_policy_stacked_for_its_students_still_plays_in_its_own_view() -> None:
    actor = teacher(PIXEL_GRU, recipe=PONG)
    stacked = as_policy(actor, env=STACKED)
    assert play(stacked, PONG, episodes=1).evaluation.scores == play(actor, PONG, episodes=1).evaluation.scores


def test_each_recurrent_student_acts_by_its_own_memory_of_its_own_environments() -> None:
    actor = teacher()
    actor = actor.under(replace(actor.spec, rule=GREEDY))
    students = [teacher(replace(GRU, core_width=width)) for width in (4, 6)]
    source = Source(states=1600, rounds=2, num_envs=4, epsilon=0.0, teacher_fraction=(1.0, 0.0))
    replay = collected(actor, source, CARTPOLE, students)
    rights = []
    for env, rows in enumerate(by_env(replay)):
        observation, first = replay.read(rows)[0], torch.from_numpy(replay.begins(rows))
        start = int(np.flatnonzero(first[250:])[0]) + 250  # an episode of the second round, in which students act
        observation, first = observation[start:], first[start:]
        with torch.inference_mode():
            right = students[env % 2].network.unroll(observation[None], first[None]).flat.argmax(1) == 1
        pushed_right = observation[1:, 1] > observation[:-1, 1]  # the cart's speed
        same = pushed_right == right[:-1]
        assert same[~first[1:]].all()
        rights.append(float(right.float().mean()))
    assert all(0.1 < share < 0.9 for share in rights)


def test_policies_that_remember_are_compared_by_what_they_remember() -> None:
    actor = teacher(recipe=PENDULUM)
    states = play(actor, episodes=2, keep_states=4 * SEQUENCE, stretch=SEQUENCE).states
    in_rows = torch.from_numpy(states.reshape(4, SEQUENCE, 3))
    with torch.inference_mode():
        together = actor.network.unroll(in_rows, torch.zeros(4, SEQUENCE, dtype=torch.bool)).flat
    want = together.reshape(4, SEQUENCE, -1)[:, BURN_IN:].flatten(0, 1)
    assert torch.allclose(answers(actor, states, SEQUENCE), want, atol=1e-6)


def test_a_student_that_remembers_is_measured_on_states_in_a_row_whoever_teaches_it(tmp_path: Path) -> None:
    actor = teacher(TINY)
    recipe = small_distillation(source=Source(states=800, rounds=2, num_envs=8))
    student = run_distillation(actor, {"gru": GRU}, recipe, run=tmp_path, seed=0, episodes=3).students[0]
    assert student.played.stretch == SEQUENCE
    kl = mean_kl(student.policy, actor, student.played.states, teacher_temperature=1.0, stretch=SEQUENCE)
    assert student.kl_student_states == pytest.approx(kl)
    assert student.kl_teacher_states != pytest.approx(kl)
    last = read_metrics(tmp_path)[-1]
    assert last["gru/kl"] == pytest.approx(student.kl_teacher_states)
    assert last["gru/agreement"] == pytest.approx(student.agreement)


def test_the_first_state_kept_of_an_environment_follows_none_of_anothers() -> None:
    replay = Replay(2, 6, (1,), 1, None)
    for _ in range(3):  # no state begins an episode
        replay.append(np.arange(2), np.zeros((2, 1), np.float32), np.zeros(2, bool), torch.zeros(2, 1))
    assert replay.begins(replay.rows()).tolist() == [True, False, False, True, False, False]
