"""Tests of `rlkd.recipe`: refusals and their words, names, overrides, round trips, the shipped files."""

import dataclasses
import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py.roms
import gymnasium
import hypothesis.strategies as st
import pytest
from hypothesis import given

from rlkd import recipe
from rlkd.errors import RecipeError, RlkdError
from rlkd.recipe import Distill, Environment, Generations, Network, Part, Ppo, Source, Term
from rlkd.vector import make

CARTPOLE = """# mine.toml
kind = "environment"
source = "gymnasium"
id = "CartPole-v1"
frame_cap = 500

[protocol]
name = "500-steps"
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the one with the shipped recipes."""
    monkeypatch.setattr("rlkd.recipe.find.data_root", lambda: tmp_path)
    return tmp_path


# What is refused.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("frame_cap", "frame_cop", "unknown key 'frame_cop'; did you mean 'frame_cap'?", id="unknown key"),
        pytest.param(
            'name = "500-steps"',
            'name = "x"\nepisode = 3',
            "[protocol]: unknown key 'episode'; did you mean 'episodes'?",
            id="unknown key in a table",
        ),
        pytest.param("frame_cap = 500", "", "missing key 'frame_cap' (int)", id="missing key"),
        pytest.param("= 500", "= 500.0", "frame_cap must be int, got 500.0", id="float for int"),
        pytest.param("= 500", "= true", "frame_cap must be int, got True", id="bool for int"),
        pytest.param("= 500", '= "500"', "frame_cap must be int, got '500'", id="text for int"),
        pytest.param("= 500", "= 0", "frame_cap must be at least 1, got 0", id="out of range"),
        pytest.param(
            '"gymnasium"',
            '"gymnasum"',
            "source cannot be 'gymnasum'; did you mean 'gymnasium'?",
            id="unknown choice",
        ),
        pytest.param("[protocol]", "[[protocol]]", "protocol must be a table, got [", id="list for table"),
        pytest.param('"environment"', '"environmnt"', "key 'kind' must be one of environment,", id="kind"),
        pytest.param('"environment"', "[1]", "key 'kind' must be one of environment,", id="kind is a list"),
        pytest.param("= 500", "= ", "not valid TOML", id="not TOML"),
    ],
)
def test_a_refusal_names_file_key_and_nearest_name(write: Write, old: str, new: str, message: str) -> None:
    assert old in CARTPOLE
    path = write(CARTPOLE.replace(old, new, 1))
    with pytest.raises(RecipeError) as refusal:
        recipe.load(path, Environment)
    assert str(refusal.value).startswith(path)
    assert message in str(refusal.value)


def test_an_int_is_a_fine_float_but_a_bool_is_none(write: Write) -> None:
    loaded = recipe.build(Term, _term(scale=2), where="here")
    assert (loaded.scale, type(loaded.scale)) == (2.0, float)
    with pytest.raises(RecipeError, match="here: scale must be float, got True"):
        recipe.build(Term, _term(scale=True), where="here")


def test_not_a_number_is_no_number() -> None:
    with pytest.raises(RecipeError, match="here: scale must be float, got nan"):
        recipe.build(Term, _term(scale=float("nan")), where="here")


@pytest.mark.parametrize("name", ["agents/nope.toml", "nope/pong.toml"])
def test_a_missing_file_says_where_the_shipped_ones_are(name: str) -> None:
    with pytest.raises(RecipeError, match=f"no recipe at {name}; `rlkd list` shows the shipped ones"):
        recipe.load(name, Environment)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="mine.toml: not valid TOML"):
        recipe.load(str(path), Environment)


def test_evaluation_stays_out_of_the_seeds_that_training_uses() -> None:
    assert recipe.Protocol(name="mine", first_seed=900_000).first_seed == recipe.EVALUATION_SEEDS
    with pytest.raises(RecipeError, match="first_seed must be at least 900_000, got 899999: below are the seeds"):
        recipe.Protocol(name="mine", first_seed=899_999)


def test_a_recipe_of_another_kind_is_refused(write: Write) -> None:
    path = write('kind = "network"\nencoder = "mlp"\n')
    with pytest.raises(RecipeError, match=r"mine\.toml: is a recipe of kind 'network', wanted 'environment'"):
        recipe.load(path, Environment)


def test_a_shipped_file_is_named_without_the_folder_it_was_installed_in(data_root: Path) -> None:
    (data_root / "agents").mkdir()
    (data_root / "agents" / "small.toml").write_text('kind = "network"\nencoder = "mlp"\n')
    with pytest.raises(RecipeError, match="^agents/small.toml: is a recipe of kind 'network', wanted 'ppo'"):
        recipe.load("small", Ppo)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"encoder": "conv", "channels": [8]}, "channels, kernels and strides need one entry"),
        ({"encoder": "mlp", "channels": [8]}, "channels belong to encoder = 'conv'"),
        ({"encoder": "mlp", "hidden": [64, 0]}, "must be above 0"),
        ({"encoder": "mlp", "hidden": 64}, "hidden must be a list of int, got 64"),
        ({"encoder": "mlp", "hidden": [64, True]}, r"hidden\[1\] must be int, got True"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.build(Network, table, where="here")


def test_atari_tables_belong_to_atari() -> None:
    pong = recipe.load("pong", Environment)
    cartpole = recipe.load("cartpole", Environment)
    with pytest.raises(RecipeError, match="emulator"):
        dataclasses.replace(pong, emulator=None)
    with pytest.raises(RecipeError, match="pixels"):
        dataclasses.replace(pong, views={})
    with pytest.raises(RecipeError, match="pixels"):
        dataclasses.replace(cartpole, views={"other": pong.views["pixels"]})
    with pytest.raises(RecipeError, match="options"):
        dataclasses.replace(pong, options={"mode": 1})


# Names.


def test_the_last_part_of_a_name_is_enough() -> None:
    assert recipe.resolve("pong", "envs") == recipe.resolve("atari/pong", "envs")
    assert recipe.load("pong", Environment) == recipe.load("atari/pong", Environment)


def test_a_name_that_is_not_there_gets_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="no recipe 'breakuot' in envs; did you mean 'breakout'?"):
        recipe.resolve("breakuot", "envs")
    with pytest.raises(RecipeError, match="no recipe 'zzz' in envs; `rlkd list` shows the shipped ones"):
        recipe.resolve("zzz", "envs")


def test_an_ambiguous_name_is_refused_with_its_candidates(data_root: Path) -> None:
    for folder in ("atari", "other"):
        (data_root / "envs" / folder).mkdir(parents=True)
        (data_root / "envs" / folder / "pong.toml").write_text(CARTPOLE)
    with pytest.raises(RecipeError, match="'pong' is ambiguous in envs: atari/pong, other/pong; give the full name"):
        recipe.resolve("pong", "envs")
    assert recipe.load("other/pong", Environment).id == "CartPole-v1"


def test_shipped_recipes_say_what_they_are(data_root: Path) -> None:
    (data_root / "envs").mkdir()
    (data_root / "envs" / "b.toml").write_text("# envs/b.toml\n# What b is.\n")
    (data_root / "envs" / "a.toml").write_text("# What a is.\nkind = 1\n")
    assert [(entry.name, entry.about) for entry in recipe.shipped("envs")] == [
        ("a", "What a is."),
        ("b", "What b is."),
    ]


def test_every_refusal_is_one_line_that_the_command_can_print() -> None:
    with pytest.raises(RlkdError) as refusal:
        recipe.load("nope", Environment)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2


# Overrides.


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("frame_cap=400", lambda env: env.frame_cap == 400),
        ("emulator.lives=life", lambda env: env.emulator.lives == "life"),
        ('emulator.lives="life"', lambda env: env.emulator.lives == "life"),
        ("views.pixels.crop=[34, 194]", lambda env: env.views["pixels"].crop == (34, 194)),
        (" emulator.noop_max = 0 ", lambda env: env.emulator.noop_max == 0),
        ("protocol.name=a=b", lambda env: env.protocol.name == "a=b"),
    ],
)
def test_an_override_reaches_its_key_and_the_hash(text: str, read: Callable[[Environment], bool]) -> None:
    plain = recipe.load("pong", Environment)
    changed = recipe.load("pong", Environment, overrides=[text])
    assert not read(plain)
    assert read(changed)
    assert recipe.recipe_hash(changed) != recipe.recipe_hash(plain)


def test_an_override_reaches_into_an_array_of_tables(write: Write) -> None:
    path = write(recipe.dump(_distill()))
    changed = recipe.load(path, Distill, overrides=["terms.1.scale=3", "source.states=64"])
    assert [term.scale for term in changed.terms] == [1.0, 3.0]
    assert changed.source.states == 64


def test_the_last_of_two_overrides_counts() -> None:
    changed = recipe.load("cartpole", Environment, overrides=["frame_cap=1", "frame_cap=2"])
    assert changed.frame_cap == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame_cap", "--set takes key=value, got 'frame_cap'"),
        ("=3", "--set takes key=value, got '=3'"),
        ("frame_cop=3", "with --set frame_cop=3: unknown key 'frame_cop'; did you mean 'frame_cap'"),
        ("emulater.lives=life", "unknown key 'emulater'; did you mean 'emulator'"),
        ("frame_cap=1e6", "with --set frame_cap=1e6: frame_cap must be int, got 1000000.0"),
        ("frame_cap.x=1", "--set frame_cap.x=1: 'frame_cap.x' is not a key of a table"),
        ("frame_cap.x.y=1", "--set frame_cap.x.y=1: 'x' is not a table"),
        ("views.pixels.crop.0=1", "'views.pixels.crop.0' is not a key of a table"),
        ("views.pixels.crop.².x=1", "--set views.pixels.crop.².x=1: '²' is not a table"),
        ("frame_cap=1\nid = 'x'", "frame_cap must be int, got"),
    ],
)
def test_an_override_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        recipe.load("pong", Environment, overrides=[text])
    assert message in str(refusal.value)


# Round trips and hashes.

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
positive = st.floats(min_value=0, exclude_min=True)
any_float = st.floats(allow_nan=False)
options = st.dictionaries(texts, st.booleans() | st.integers() | any_float | texts, max_size=3)
counts = st.integers(1, 2**40)
keywords = st.dictionaries(texts.filter(lambda key: key != "name"), st.booleans() | st.integers() | any_float | texts)
parts = st.builds(Part, texts, keywords)
points = st.lists(st.tuples(st.floats(0, 1), any_float), min_size=1, max_size=4).map(
    lambda found: tuple(sorted(found, key=lambda point: point[0]))
)

environments = st.builds(
    Environment,
    source=st.just("gymnasium"),
    id=texts,
    frame_cap=counts,
    protocol=st.builds(recipe.Protocol, name=texts, episodes=counts, first_seed=st.integers(900_000, 2**40)),
    options=options,
)
distillations = st.builds(
    Distill,
    source=st.builds(
        Source,
        states=st.integers(100, 10**9),
        rounds=st.integers(2, 99),
        num_envs=st.sampled_from([2, 32]),
        teacher_fraction=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    ),
    terms=st.lists(
        st.builds(
            Term,
            divergence=parts,
            teacher=parts,
            target=st.lists(parts, max_size=3).map(tuple),
            weight=st.none() | parts,
            coefficient=any_float | st.integers(-9, 9) | points,
            student_temperature=positive,
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    gradient_steps=counts,
    controls=st.sampled_from([(), ("hard_labels",), ("hard_labels", "shuffled_teacher")]),
)
networks = st.builds(
    Network,
    encoder=st.just("mlp"),
    hidden=st.lists(counts, max_size=4).map(tuple),
    core=st.sampled_from(["none", "gru"]),
)


@given(environments | distillations | networks)
def test_a_recipe_survives_toml(original: Environment | Distill | Network) -> None:
    table = tomllib.loads(recipe.dump(original))
    assert table.pop("kind") in ("environment", "distill", "network")
    read = recipe.build(type(original), table, where="here")
    assert read == original
    assert recipe.recipe_hash(read) == recipe.recipe_hash(original)


@given(environments | distillations | networks)
def test_a_table_gives_back_the_recipe(original: Environment | Distill | Network) -> None:
    assert recipe.build(type(original), recipe.to_table(original), where="here") == original


@pytest.mark.parametrize("text", ["\x7f", '\x00\n\t"\\', "\N{GRINNING FACE}", "é", "a # b", ""])
def test_odd_texts_survive_toml(text: str, write: Write) -> None:
    cartpole = recipe.load("cartpole", Environment)
    odd = dataclasses.replace(cartpole, id=text, options={text: text})
    assert recipe.load(write(recipe.dump(odd)), Environment) == odd


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), 1e-300, 1e300, 5e-324])
def test_odd_numbers_survive_toml(number: float, write: Write) -> None:
    odd = dataclasses.replace(_distill(), terms=(Term(divergence=Part("mse"), coefficient=number),))
    assert recipe.load(write(recipe.dump(odd)), Distill) == odd


def test_views_of_odd_names_survive_toml(write: Write) -> None:
    pong = recipe.load("pong", Environment)
    odd = dataclasses.replace(pong, views={**pong.views, 'a "b".c': pong.views["pixels"]})
    assert recipe.load(write(recipe.dump(odd)), Environment) == odd


@dataclasses.dataclass(frozen=True)
class Tiny:
    b: float
    a: tuple[int, ...] = (1, 2)
    unset: int | None = None


def test_the_hash_is_of_the_sorted_table_and_nothing_else() -> None:
    written = b'["Tiny",{"a":[1,2],"b":0.5}]'
    assert recipe.recipe_hash(Tiny(b=0.5)) == hashlib.sha256(written).hexdigest()


def test_the_hash_tells_values_and_kinds_apart() -> None:
    one = Generations(operator=Part("fresh"), distill="a")
    assert recipe.recipe_hash(one) != recipe.recipe_hash(dataclasses.replace(one, generations=4))
    assert recipe.recipe_hash(one) == recipe.recipe_hash(
        Generations(operator=Part("fresh"), distill="a", generations=3)
    )


@pytest.mark.parametrize(("given_value", "same"), [(2, 2.0), (-0.0, 0.0), (0, 0.0)])
def test_equal_recipes_hash_equally(given_value: float, same: float) -> None:
    one, other = Term(divergence=Part("mse"), scale=given_value), Term(divergence=Part("mse"), scale=same)
    assert one == other
    assert recipe.recipe_hash(one) == recipe.recipe_hash(other)


# What ships.

SHIPPED_ENVIRONMENTS = {
    *("beam_rider", "breakout", "enduro", "freeway", "ms_pacman", "pong", "qbert", "riverraid", "seaquest"),
    *("space_invaders", "acrobot", "cartpole", "lunarlander", "mountaincar", "pendulum"),
}


def _shipped() -> list[recipe.Shipped]:
    return [*recipe.shipped("envs"), *recipe.shipped("agents")]


@pytest.mark.parametrize("entry", _shipped(), ids=lambda entry: entry.name)
def test_every_shipped_recipe_loads_and_says_what_it_is(entry: recipe.Shipped) -> None:
    first = entry.path.read_text(encoding="utf-8").splitlines()[0]
    loaded = recipe.load_any(entry.path)
    assert first == f"# {entry.path.relative_to(recipe.data_root()).as_posix()}"
    assert entry.about.endswith((".", ")"))
    assert recipe.build(type(loaded), recipe.to_table(loaded), where="here") == loaded


@pytest.mark.parametrize("entry", recipe.shipped("agents"), ids=lambda entry: entry.name)
def test_the_names_in_shipped_recipes_are_shipped(entry: recipe.Shipped) -> None:
    loaded = recipe.load_any(entry.path)
    if isinstance(loaded, Ppo):
        recipe.load(loaded.network, Network)
    if isinstance(loaded, Distill):
        for student in loaded.students:
            recipe.load(student, Network)
    if isinstance(loaded, Generations):
        if loaded.distill is not None:
            recipe.load(loaded.distill, Distill)
        if loaded.train is not None:
            recipe.load(loaded.train, Ppo)
        if "assistant" in loaded.operator.values:
            recipe.load(str(loaded.operator.values["assistant"]), Network)
        if loaded.student != "same":
            recipe.load(loaded.student, Network)


def test_the_promised_environments_ship_and_their_short_names_are_enough() -> None:
    short = {entry.name.rsplit("/", 1)[-1] for entry in recipe.shipped("envs")}
    assert short >= SHIPPED_ENVIRONMENTS
    for name in SHIPPED_ENVIRONMENTS:
        recipe.load(name, Environment)


@pytest.mark.parametrize("entry", recipe.shipped("envs"), ids=lambda entry: entry.name)
def test_shipped_environments_exist_where_they_say(entry: recipe.Shipped) -> None:
    environment = recipe.load_any(entry.path)
    assert isinstance(environment, Environment)
    if environment.source == "ale":
        assert environment.id in ale_py.roms.get_all_rom_ids()
    else:
        make(environment).close()
        # MiniGrid cuts its games by itself.
        assert gymnasium.spec(environment.id).max_episode_steps in (environment.frame_cap, None)


def _term(**values: Any) -> dict[str, Any]:
    return {"divergence": "mse", **values}


def _distill() -> Distill:
    terms = (Term(divergence=Part("forward_kl")), Term(divergence=Part("mse")))
    return Distill(source=Source(states=1000), terms=terms, gradient_steps=10, students=("nature_113k",))
