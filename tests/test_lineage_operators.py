"""Tests of operators of generations: who is made of whom, with which weights, and what stands in the folder."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkd import recipe, storage
from rlkd.cli import main
from rlkd.data import JsonDict
from rlkd.distillation import run_distillation
from rlkd.errors import MismatchError, RecipeError, Stopped, StorageError
from rlkd.evaluation import play
from rlkd.evaluation.agreement import agreement
from rlkd.evaluation.inheritance import inheritance
from rlkd.learn import ppo, train
from rlkd.learn.ppo import begin_from
from rlkd.lineage import evolve, verify
from rlkd.lineage.arms import smoothing_of
from rlkd.lineage.operators import OPERATORS, operator_of, plan
from rlkd.lineage.step import FIRST, Chain, Step
from rlkd.policy import Policy, combined, load_policy
from rlkd.recipe import Bonus, Generations, Network, Part, Ppo, Term
from rlkd.report import write_report
from tests.handmade import TINY, cartpole_teacher, environment, policy, student_file
from tests.handmade import small_distillation as small

CARTPOLE = environment("cartpole", frame_cap=200, episodes=6)
NUMBERS: dict[str, dict[str, Any]] = {
    "reset": {"mask": "kels", "share": 0.5},
    "perturb": {"keep": 0.5, "noise": 0.1},
    "residual": {"assistant": "mlp_16"},
    "select": {"shares": (0.5, 1.0)},
}
TRAINED = {"improve": "rl/ppo_classic", "iterate": "distill/bam", "follow": "rl/ppo_classic"}


def chain(operator: str, **changes: Any) -> Chain:
    given = {"operator": Part(operator, NUMBERS.get(operator, {})), "train": TRAINED.get(operator)} | changes
    sizes = tuple(replace(TINY, hidden=(width,)) for width in (12, 9, 6))
    return Chain(rule=Generations(**given), seed=7, student=sizes[-1], between=sizes)


def is_main(step: Step) -> bool:
    """Whether it is its generation's policy in the main line."""
    return not step.role and step.arm is None


def agent(folder: Path, operator: Any, **changes: Any) -> str:
    """The file of a generations recipe with a distillation of a second; `distill=None` names none."""
    changed = changes.pop("distill", {})
    given: dict[str, Any] = {"generations": 2} | changes
    if changed is not None:
        (folder / "distill.toml").write_text(recipe.dump(replace(small(), **({"gradient_steps": 60} | changed))))
        given["distill"] = str(folder / "distill.toml")
    rule = Generations(operator=operator if isinstance(operator, Part) else Part(operator), **given)
    (folder / "agent.toml").write_text(recipe.dump(rule))
    return str(folder / "agent.toml")


def teacher(network: Network = TINY, **changes: Any) -> Policy:
    return cartpole_teacher(rule="sampled", recipe=replace(CARTPOLE, **changes))


def steps_of(record: JsonDict) -> dict[str, JsonDict]:
    return {entry["name"]: entry for entry in record["steps"]}


def policy_of(record: JsonDict, name: str) -> Policy:
    return load_policy(Path(record["run"]) / steps_of(record)[name]["path"])


@pytest.mark.parametrize("name", OPERATORS)
def test_steps_stand_behind_whom_they_are_made_of_and_have_names_of_their_own(name: str) -> None:
    for line in range(2):
        steps = plan(replace(chain(name), line=line))
        known = {FIRST}
        for step in steps:
            assert {*step.parents, *([step.start] if step.start else [])} <= known, step.name
            assert step.name not in known
            known.add(step.name)
        assert [step.number for step in steps if is_main(step)] == [1, 2, 3]
        assert all(step.name.endswith("line1") == bool(line) for step in steps)
        assert all((step.network is not None) == (step.how == "distil") for step in steps)
    seeds = [{(step.number, step.seed) for step in plan(replace(chain(name), line=line))} for line in (0, 1)]
    assert not {seed for _, seed in seeds[0]} & {seed for _, seed in seeds[1]}
    for number in (1, 2, 3):  # one a generation, and one of who learns from rewards
        assert len({seed for each, seed in seeds[0] if each == number}) == 1 + (name in ("improve", "follow"))
    assert len({seed for _, seed in seeds[0]}) == 3 * (1 + (name in ("improve", "follow")))


def test_arms_are_lines_of_their_own_from_the_first_teacher_with_the_main_lines_seeds() -> None:
    steps = plan(chain("fresh", arms=("smoothed", "longer", "ensemble")))
    by_name = {step.name: step for step in steps}
    assert by_name["002-smoothed"].parents == ("001-smoothed",)
    assert by_name["001-smoothed"].parents == (FIRST,)
    assert by_name["002-smoothed"].seed == by_name["002"].seed
    assert (by_name["003-longer"].parents, by_name["003-longer"].share) == ((FIRST,), 3.0)
    assert by_name["003-ensemble"].parents == ("001", "002", "003")
    with pytest.raises(RecipeError, match="arms belong to operator = 'fresh'"):
        chain("perturb", arms=("longer",))


def test_an_assistant_chain_and_its_control_take_the_same_gradient_steps() -> None:
    steps = plan(chain("shrink"))
    assert [step.network and step.network.hidden for step in steps] == [(12,), (9,), (6,), (6,)]
    assert sum(step.share for step in steps if is_main(step)) == steps[-1].share == 3
    steps = plan(chain("sequence"))
    assert [step.share for step in steps] == [0.5, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("frehs"), "no operator 'frehs'; did you mean 'fresh'"),
        (Part("reset", {"mask": "kels"}), "operator 'reset': missing key 'share'"),
        (Part("fresh", {"share": 0.5}), "operator 'fresh': unknown key 'share'; it takes none"),
        (Part("reset", {"mask": "kel", "share": 0.5}), "mask must be 'kels' or 'wels', got 'kel'"),
        (Part("select", {"shares": (0.5, 0.503)}), "shares must be two or more above 0 that differ by a hundredth"),
        (Part("reset", {"mask": "kels", "share": 1.5}), "share must be above 0 and below 1"),
        (Part("residual", {"assistant": "nature_16k"}), "nature_16k"),
    ],
)
def test_operators_that_cannot_be_are_refused(part: Part, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        evolve(teacher(), agent(tmp_path, part), run=tmp_path / "run", episodes=2)
    assert not (tmp_path / "run").exists()


def test_every_shipped_recipe_names_an_operator_with_its_numbers() -> None:
    found = [entry for entry in recipe.shipped("agents") if entry.name.startswith("generations/")]
    assert len(found) >= 12
    named = set()
    for entry in found:
        rule = recipe.load(entry.name, Generations)
        operator, part = operator_of(rule.operator)
        assert operator.trains == (rule.train is not None), entry.name
        named.add(part.name)
    assert named == set(OPERATORS)


def test_lines_differ_by_their_seeds_and_arms_share_states_of_the_first_teacher(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rule = agent(tmp_path, "fresh", arms=("confidence", "ensemble"))
    record = evolve(teacher(), rule, run=run, lines=2, episodes=3)
    steps = steps_of(record)
    assert list(steps) == [
        *("000", "001", "002", "001-confidence", "002-confidence", "002-ensemble"),
        *("001-line1", "002-line1", "001-confidence-line1", "002-confidence-line1", "002-ensemble-line1"),
    ]
    assert [entry["name"] for entry in record["generations"]] == ["000", "001", "002"]
    assert record["status"] == "done"
    assert len({entry["hash"] for entry in record["steps"]}) == len(steps)
    assert len(list((run / "replay").iterdir())) == 2  # one a line: the first teacher was played once for both
    for name, entry in steps.items():
        parents = [steps[parent]["hash"] for parent in entry["parent_names"]]
        assert entry["parents"][: len(parents)] == parents, name
        assert list(policy_of(record, name).spec.parents) == entry["parents"], name
    assert steps["001"]["data_hash"] == steps["001-confidence"]["data_hash"] != steps["001-line1"]["data_hash"]
    assert steps["002-ensemble"]["parameters"] == 2 * steps["001"]["parameters"]
    assert verify(run)["problems"] == []
    more = evolve(teacher(), rule, run=run, lines=1, generations=3, episodes=3, overrides=("arms=[]",))
    assert set(steps_of(more)) == {*steps, "003"}  # what is there already stays in the record
    assert [entry["name"] for entry in more["generations"]] == ["000", "001", "002", "003"]
    assert more["lines"] == 2
    assert all(steps_of(more)[name].get("measures") == entry.get("measures") for name, entry in steps.items())


def test_smoothed_labels_have_the_entropy_of_the_teachers_answers() -> None:
    for actions, epsilon in ((2, 0.3), (6, 0.05), (18, 0.9)):
        other = epsilon / actions
        best = torch.tensor(1 - epsilon + other, dtype=torch.float64)
        rest = torch.tensor(other, dtype=torch.float64)
        entropy = -(best * best.log() + (actions - 1) * rest * rest.log())
        assert smoothing_of(float(entropy), actions) == pytest.approx(epsilon, rel=1e-6)
    assert smoothing_of(0.0, 6) == pytest.approx(1e-6)
    assert smoothing_of(2.0, 6) == 1.0


def test_an_arm_of_smoothed_labels_learns_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[tuple[Term, ...]] = []

    def watched(*given: Any, **named: Any) -> Any:
        learnt.append(given[2].terms)
        return run_distillation(*given, **named)

    monkeypatch.setattr("rlkd.lineage.making.run_distillation", watched)
    rule = agent(tmp_path, "fresh", arms=("smoothed", "confidence"), generations=1)
    evolve(teacher(), rule, run=tmp_path / "run", episodes=2)
    main, smoothed, confidence = (terms[0] for terms in learnt)
    assert main.teacher.name == "teacher"
    assert smoothed.teacher.name == confidence.teacher.name == "label_h1"
    (part,) = smoothed.target
    assert 0 < float(part.values["epsilon"]) < 1  # type: ignore[arg-type]  # a number
    assert confidence.weight == Part("confidence")


@pytest.mark.parametrize("mask", ["kels", "wels"])
def test_knowledge_evolves_on_the_same_answers_from_what_is_kept(
    mask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[int, int]] = []

    def watched(*given: Any, **named: Any) -> Any:
        seeds.append((named["seed"], named["student_seed"]))
        return run_distillation(*given, **named)

    monkeypatch.setattr("rlkd.lineage.making.run_distillation", watched)
    rule = agent(tmp_path, Part("reset", {"mask": mask, "share": 0.5}), generations=3, student="mlp_16")
    record = evolve(teacher(), rule, run=tmp_path / "run", episodes=2)
    steps = steps_of(record)
    assert [entry["parent_names"] for entry in record["generations"][1:]] == [["000"], ["000", "001"], ["000", "002"]]
    assert steps["003-longer"]["gradient_steps"] == sum(entry["gradient_steps"] for entry in record["generations"][1:])
    assert len(list((tmp_path / "run" / "replay").iterdir())) == 1
    assert len({entry["data_hash"] for entry in record["generations"][1:]}) == 1
    assert seeds == [(1000, 1000), (1000, 2000), (1000, 3000), (1000, 3000)]  # collected alike, learnt each in its way
    slims = [name for name in steps if "slim" in name]
    assert slims == (["001-slim", "002-slim", "003-slim"] if mask == "kels" else [])
    for name in slims:
        whole = steps[name.removesuffix("-slim")]
        assert steps[name]["parameters"] < whole["parameters"] / 2
        assert policy_of(record, name).spec.parents == (whole["hash"],)
    assert verify(tmp_path / "run")["problems"] == []


def test_a_perturbed_student_begins_near_its_teacher_and_a_fresh_one_does_not(tmp_path: Path) -> None:
    quick = {"distill": {"gradient_steps": 1}}
    rule = agent(tmp_path, Part("perturb", {"keep": 0.9, "noise": 0.01}), student="mlp_16", **quick)
    record = evolve(teacher(), rule, run=tmp_path / "near", episodes=2)
    assert record["generations"][2]["agreement"] > 0.9
    assert record["generations"][2]["parent_names"] == ["001"]


def test_an_assistant_learns_what_the_student_lacks(tmp_path: Path) -> None:
    mse = {"terms": (Term(divergence=Part("mse")),), "gradient_steps": 400}
    poor = student_file(tmp_path, "poor", replace(TINY, hidden=(1,)))  # half of its answers are the same
    rule = agent(tmp_path, Part("residual", {"assistant": "mlp_16"}), student=poor, generations=1, distill=mse)
    record = evolve(teacher(), rule, run=tmp_path / "run", episodes=2)
    alone, both = policy_of(record, "001-student"), policy_of(record, "001")
    assert both.spec.parameters > alone.spec.parameters
    first = {f"members.0.{name}": weight for name, weight in alone.network.state_dict().items()}
    held = both.network.state_dict()
    assert all(torch.equal(held[name], weight) for name, weight in first.items())  # it stays as it was
    states = play(teacher(), CARTPOLE, episodes=4, first_seed=5, keep_states=512).states
    with torch.no_grad():
        wanted, without, together = (
            each(states).params["logits"] - each(states).params["logits"].mean(1, keepdim=True)
            for each in (teacher(), alone, both)
        )
    assert (wanted - together).norm() <= 0.7 * (wanted - without).norm()
    assert verify(tmp_path / "run")["problems"] == []


def test_of_early_stopped_students_the_best_by_other_episodes_teaches_the_next(tmp_path: Path) -> None:
    rule = agent(tmp_path, Part("select", {"shares": (0.1, 1.0)}))
    record = evolve(teacher(), rule, run=tmp_path / "run", episodes=3)
    steps = steps_of(record)
    for number in (1, 2):
        entry = steps[f"00{number}"]
        assert entry["chosen"] == max(entry["validation"], key=entry["validation"].__getitem__)
        assert entry["hash"] == steps[entry["chosen"]]["hash"]
        assert entry["measures"] == steps[entry["chosen"]]["measures"] != {}
        assert entry["kl_teacher_states"] == steps[entry["chosen"]]["kl_teacher_states"]
        assert steps[f"00{number}-stop010"]["gradient_steps"] == 6
    assert steps["002-stop100"]["parents"] == [steps["001"]["hash"]]


def small_ppo(folder: Path, name: str, **changes: Any) -> str:
    """The file of a PPO recipe for 512 steps."""
    made = replace(recipe.load(name, Ppo), network="mlp_16", num_envs=4, rollout_steps=32, minibatch=64, **changes)
    (folder / "train.toml").write_text(recipe.dump(made))
    return str(folder / "train.toml")


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    overrides = ("network='mlp_16'", "num_envs=4")
    return train(CARTPOLE, "rl/ppo_classic", run=tmp_path_factory.mktemp("founder"), frames=4096, overrides=overrides)


EXPLORES = {"bonus": Bonus(features=8, predictor_widths=(8,), terminal="final", warm_up_steps=4)}


def test_generations_explore_from_their_parents_weights_and_leave_the_bonus_behind(
    founder: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, dict[str, torch.Tensor]]] = []

    def watched(start: Policy, network: Any, spec: Any) -> None:
        begin_from(start, network, spec)
        begun.append((start.spec.hash, {name: tensor.clone() for name, tensor in network.state_dict().items()}))

    monkeypatch.setattr(ppo, "begin_from", watched)
    explore = small_ppo(tmp_path, "explore/ppo_rnd_classic", **EXPLORES)
    rule, run = agent(tmp_path, "improve", train=explore, train_frames=512), tmp_path / "run"
    record = evolve(founder, rule, run=run, episodes=3)
    steps = steps_of(record)
    assert [start for start, _ in begun] == [steps["000"]["hash"], steps["001"]["hash"]]
    for (_, weights), parent in zip(begun, (founder, policy_of(record, "001")), strict=True):
        given = {name: value for name, value in parent.network.state_dict().items() if not name.startswith("critic")}
        assert given
        assert all(torch.equal(weights[name], value) for name, value in given.items())
        assert weights["critic.weight"].shape[0] == 2  # of game and bonus, where the parent has one value or none
    for number, before in ((1, "000"), (2, "001")):
        explorer = policy_of(record, f"00{number}-trained")
        assert explorer.spec.parents == (steps[before]["hash"],)
        assert explorer.network.critic is not None
        assert explorer.network.critic.out_features == 2
        assert steps[f"00{number}"]["parents"] == [explorer.spec.hash]
        assert steps[f"00{number}-trained"]["frames"] == 512
        assert policy_of(record, f"00{number}").network.critic is None
    (run / "generations" / "002" / "record.json").unlink()
    again = evolve(founder, rule, run=run, episodes=3)
    assert [entry["hash"] for entry in again["steps"]] == [entry["hash"] for entry in record["steps"]]


def test_a_signal_while_a_training_is_set_up_stops_it_and_the_same_command_goes_on(
    founder: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(start: Policy, network: Any, spec: Any) -> None:
        begin_from(start, network, spec)
        signal.raise_signal(signal.SIGINT)  # before the training run listens itself

    rule = agent(tmp_path, "improve", train=small_ppo(tmp_path, "rl/ppo_classic"), train_frames=512, generations=1)
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(ppo, "begin_from", interrupted)
        with pytest.raises(Stopped):
            evolve(founder, rule, run=run, episodes=2)
    assert not (run / "generations" / "001-trained" / "record.json").exists()
    record = evolve(founder, rule, run=run, episodes=2)
    assert [entry["name"] for entry in record["steps"]] == ["000", "001-trained", "001"]


def test_each_phase_learns_from_rewards_and_the_phase_before_with_new_weights(founder: Policy, tmp_path: Path) -> None:
    phase = small_ppo(tmp_path, "distill/iter", minibatches="shuffled")
    rule = agent(tmp_path, "iterate", train=phase, train_frames=512, distill=None)
    record = evolve(founder, rule, run=tmp_path / "run", episodes=2)
    steps = steps_of(record)
    assert [entry["parent_names"] for entry in record["generations"]] == [[], ["000"], ["001"]]
    for number in (1, 2):
        made = policy_of(record, f"00{number}")
        assert made.network.critic is not None
        assert list(made.spec.parents) == steps[f"00{number}"]["parents"]
    wrong = agent(tmp_path, "iterate", train=small_ppo(tmp_path, "rl/ppo_classic"), distill=None)
    with pytest.raises(RecipeError, match="operator 'iterate' needs a PPO recipe with terms"):
        evolve(founder, wrong, run=tmp_path / "wrong", episodes=2)


def test_one_student_follows_the_best_of_what_its_teacher_was(founder: Policy, tmp_path: Path) -> None:
    rule = agent(tmp_path, "follow", train=small_ppo(tmp_path, "rl/ppo_classic"), train_frames=512)
    record = evolve(founder, rule, run=tmp_path / "run", episodes=3)
    steps = steps_of(record)
    assert steps["001-trained"]["parent_names"] == ["000"]
    assert steps["002-trained"]["parent_names"] == ["001-trained"]
    assert set(steps["002-best"]["validation"]) == {"001-best", "002-trained"}
    assert steps["001"]["parent_names"] == ["001-best"]
    assert steps["002"]["parent_names"] == ["002-best", "001"]
    early, late = policy_of(record, "001"), policy_of(record, "002")
    states = torch.randn(256, 4, generator=torch.Generator().manual_seed(0)).numpy()
    assert agreement(late, early, states) > 0.7  # it went on with its weights
    assert verify(tmp_path / "run")["problems"] == []


def test_recipes_that_do_not_go_with_an_operator_are_refused(founder: Policy, tmp_path: Path) -> None:
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ("improve", {}, RecipeError, "operator 'improve' needs train"),
        ("fresh", {"train": "rl/ppo"}, RecipeError, "train belongs to operators"),
        ("improve", {"train": "rl/ppo_classic", "student": "mlp_64"}, RecipeError, "takes student = 'same'"),
        ("iterate", {"train": "distill/bam", "student": "mlp_64"}, RecipeError, "distils nothing; leave out student"),
        ("fresh", {"arms": ("permuted",)}, RecipeError, "arm 'permuted' needs three actions, here are 2"),
        (
            "fresh",
            {"arms": ("smoothed",), "distill": {"terms": (Term(divergence=Part("mse")),)}},
            RecipeError,
            "need a distillation by one plain term",
        ),
        ("improve", {"train": "rl/ppo_classic"}, MismatchError, "has to be a 'categorical' policy with the recipe's"),
    ]
    for operator, changes, kind, message in cases:
        with pytest.raises(kind, match=message):
            evolve(founder, agent(tmp_path, operator, **changes), run=tmp_path / "run", episodes=1)
    with pytest.raises(RecipeError, match="train_frames belongs to train"):
        Generations(operator=Part("fresh"), train_frames=10)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def bred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bred")
    evolve(teacher(), agent(folder, "fresh"), run=folder / "run", episodes=2)
    return folder / "run"


def copied(bred: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(bred, folder / "copy"))


def test_what_is_wrong_with_a_lineage_is_told_by_name(
    bred: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(bred)["problems"] == []
    assert main(["verify", str(bred)]) == 0
    assert "as it was written" in capsys.readouterr().out

    def problems(change: Any) -> list[str]:
        import shutil

        run = copied(bred, tmp_path)
        change(run / "generations")
        found: list[str] = verify(run)["problems"]
        assert main(["verify", str(run)]) == 2
        assert found[0] in capsys.readouterr().err
        shutil.rmtree(run)
        return found

    def edit(path: Path, **changes: Any) -> None:
        storage.write_record(path, storage.read_json(path) | changes)

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)

    other = cartpole_teacher("q", recipe=CARTPOLE)

    def orphan(at: Path) -> None:
        policy_ = load_policy(at / "001" / "policy.safetensors")
        other_parents = policy_.under(replace(policy_.spec, parents=("0" * 64,)))
        other_parents.save(at / "001" / "policy.safetensors")
        edit(at / "001" / "record.json", hash=other_parents.spec.hash)

    cases: dict[str, Any] = {
        "has other parents than those that are recorded of 001": orphan,
        "does not match its checksum": lambda at: flip(at / "001" / "policy.safetensors"),
        "was replaced": lambda at: other.save(at / "001" / "policy.safetensors"),
        "is missing, and 001 is recorded": lambda at: (at / "001" / "policy.safetensors").unlink(),
        "its parent 001 is missing": lambda at: (at / "001" / "record.json").unlink(),
        "was made of another 001": lambda at: edit(at / "002" / "record.json", parents=["0" * 64]),
        "is its own ancestor": lambda at: edit(at / "001" / "record.json", parent_names=["002"]),
        "content does not match its checksum": lambda at: (at / "001" / "record.json").write_text(
            (at / "001" / "record.json").read_text().replace('"mean": ', '"mean": 1')
        ),
        "damaged, not a JSON": lambda at: (at / "001" / "record.json").write_text("{"),
        "is the record of 002": lambda at: edit(at / "001" / "record.json", name="002"),
    }
    for message, change in cases.items():
        assert any(message in problem for problem in problems(change)), message


def test_a_policys_file_is_verified_with_its_parents(
    bred: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bred / "generations" / "001" / "policy.safetensors"
    assert main(["verify", str(path)]) == 0
    assert load_policy(path).spec.parents[0][:12] in capsys.readouterr().out
    assert main(["verify", "policy:pong"]) == 0
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "no such file or run folder" in capsys.readouterr().err
    assert main(["verify", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["kind"] == "policy"


def test_one_mask_holds_for_a_line_and_is_another_in_the_next() -> None:
    def masks(line: int) -> list[Part]:
        made = chain("reset")
        wels = replace(made.rule, operator=Part("reset", {"mask": "wels", "share": 0.5}))
        steps = plan(replace(made, rule=wels, line=line))
        return [step.change for step in steps if step.change is not None]

    assert len(masks(0)) == 2
    assert masks(0)[0] == masks(0)[1] != masks(1)[0]


def test_more_generations_are_refused_where_they_would_have_been_planned_otherwise(tmp_path: Path) -> None:
    rule, run = agent(tmp_path, "sequence"), tmp_path / "run"
    evolve(teacher(), rule, run=run, generations=1, episodes=2)
    with pytest.raises(
        StorageError, match="001 was made by another plan than this: operator 'sequence' plans otherwise"
    ):
        evolve(teacher(), rule, run=run, generations=2, episodes=2)


def test_fewer_generations_leave_the_others_in_the_record_parents_before_children(tmp_path: Path) -> None:
    rule, run = agent(tmp_path, Part("select", {"shares": (0.5, 1.0)})), tmp_path / "run"
    whole = evolve(teacher(), rule, run=run, episodes=2)
    record = evolve(teacher(), rule, run=run, generations=1, episodes=2)
    assert {*steps_of(record)} == {*steps_of(whole)}
    known: set[str] = set()
    for entry in record["steps"]:
        assert set(entry["parent_names"]) <= known
        known.add(entry["name"])
    write_report(run)
    path = run / "generations" / "001-stop050" / "record.json"
    storage.write_record(path, storage.read_json(path) | {"parents": ["0" * 64]})
    with pytest.raises(StorageError, match="was made of another 000 than this"):
        evolve(teacher(), rule, run=run, generations=1, episodes=2)


def test_every_generation_is_compared_with_the_first_teacher_on_that_ones_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[bytes, bytes]] = []

    def watched(*given: Any, **named: Any) -> Any:
        looked.append((given[3].tobytes(), named["first_states"].tobytes()))
        return inheritance(*given, **named)

    monkeypatch.setattr("rlkd.lineage.measured.inheritance", watched)
    evolve(teacher(), agent(tmp_path, "fresh", generations=3), run=tmp_path / "run", episodes=3)
    parents, firsts = zip(*looked, strict=True)
    assert (len(set(parents)), len(set(firsts))) == (3, 1)
    assert firsts[0] == parents[0]


def test_measures_are_taken_anew_where_siblings_are_others_now(tmp_path: Path) -> None:
    rule, run = agent(tmp_path, "fresh", generations=1), tmp_path / "run"
    record = evolve(teacher(), rule, run=run, lines=2, episodes=3)
    path = run / "generations" / "001-line1" / "measures.json"
    told = json.loads(path.read_text())
    assert len(told["beside"]) == 4  # child, parent, first teacher, sibling
    path.write_text(json.dumps(told | {"beside": ["0" * 64], "measures": {}}))
    again = evolve(teacher(), rule, run=run, lines=2, episodes=3)
    assert steps_of(again)["001-line1"]["measures"] == steps_of(record)["001-line1"]["measures"] != {}


def test_students_without_a_memory_descend_from_a_teacher_that_has_one(tmp_path: Path) -> None:
    memory = policy(CARTPOLE, "categorical", replace(TINY, core="gru", core_width=8), rule="sampled")
    rule = agent(tmp_path, "fresh", student="mlp_16")
    record = evolve(memory, rule, run=tmp_path / "run", episodes=8)
    assert all("parent" in entry["measures"] or "skipped" in entry["measures"] for entry in record["generations"][1:])
    few = evolve(memory, rule, run=tmp_path / "few", episodes=1, generations=1)
    assert few["status"] == "done"
    with pytest.raises(MismatchError, match="students that remember cannot be put together"):
        evolve(memory, agent(tmp_path, "ensemble"), run=tmp_path / "no", episodes=1)


def test_an_ensemble_founds_a_lineage(tmp_path: Path) -> None:
    both = combined([teacher(), cartpole_teacher(rule="sampled", recipe=CARTPOLE)], "mean", name="both")
    record = evolve(both, agent(tmp_path, "fresh", generations=1), run=tmp_path / "run", episodes=3)
    skipped = record["generations"][1]["measures"]["skipped"]["parent.layer_cka"]
    assert skipped == "networks of members have layers side by side"
