r"""The policies that ship: how each came to be, and what it scores.

    make bench NAME=teachers                                  # scores what result.json does not hold yet
    python -m benchmarks.teachers --ship pong --run RUN       # makes that file and its curve from a training run first

teachers.toml has the commands that made each policy and what it was to score. Policies are stored in half precision,
which is what is scored. Whether the last policy of a run or the best one by its curve is taken, and which rule picks
its actions, is chosen on episodes of its own; the score is measured on the protocol's.
"""

import argparse
import csv
import io
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

from benchmarks.common import Record, end_with, machine, store, stored, thinned
from rlkd import recipe
from rlkd.evaluation import environment_of, play, play_randomly
from rlkd.learn.training import POLICY
from rlkd.metrics import read_metrics
from rlkd.policy import Policy, load_policy, parse_rule
from rlkd.recipe import Environment, data_root
from rlkd.stats import mean_interval
from rlkd.storage import write_bytes

FOLDER = Path(__file__).parent
SHIPPED = data_root() / "agents" / "policies"
MOST_BYTES = 4_000_000
CHOICE_SEED, CHOICE_EPISODES = 3_000_000, 30
CURVE_POINTS = 200
RULES = {"categorical": ("greedy", "sampled"), "q": ("greedy", "epsilon_greedy 0.01")}


def main() -> int:
    """Make one policy if a run is given; score all; store the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ship", metavar="NAME", help="make this policy from --run before")
    parser.add_argument("--run", type=Path, help="training run")
    chosen = parser.parse_args()
    made: Record = tomllib.loads((FOLDER / "teachers.toml").read_text())
    if chosen.ship:
        if chosen.run is None or chosen.ship not in made:
            raise SystemExit(f"--ship NAME goes with --run RUN; names are {', '.join(made)}")
        ship(chosen.ship, chosen.run, made[chosen.ship])
    lines = [
        "Whole games, sticky actions 0.25, 100 episodes; 95 % intervals.",
        "",
        "| policy | score | wanted | random | rule | agent steps, frames, hours on two cores | bytes | parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    record: Record = {"machine": machine()}
    before = stored(FOLDER)
    games = []
    for name, told in made.items():
        line, record[name] = scored(name, told, before.get(name))
        lines.append(line)
        games.append(record[name]["environment"])
    lines.append("")
    for name, told in made.items():
        lines += [
            f"`policy:{name}`, curve in [{name}_curve.csv]({name}_curve.csv):",
            "",
            "```",
            *told["commands"],
            "```",
        ]
        lines += [told["remark"], ""] if "remark" in told else [""]
    atari = sorted(path.stem for path in (data_root() / "envs" / "atari").glob("*.toml"))
    untrained = [name for name in atari if recipe.load(name, Environment).id not in games]
    lines.append(f"Not trained: {', '.join(untrained)}.")
    store(FOLDER, record, lines)
    return 0


def scored(name: str, told: Record, before: Record | None) -> tuple[str, Record]:
    """A line of the table, and what it says; a policy that was scored before is not played again."""
    policy = load_policy(f"policy:{name}")
    environment = environment_of(policy, None)
    if before is not None and before["hash"] == policy.spec.hash:
        scores, random = before["scores"], before["random"]
    else:
        scores, random = play(policy, environment).evaluation.scores, play_randomly(environment).mean
    estimate, size = mean_interval(scores), (SHIPPED / f"{name}.safetensors").stat().st_size
    wanted = "nothing fixed"
    if "wanted" in told:
        met = estimate.point >= told["wanted"] and estimate.low >= told["wanted_low"]
        wanted = f"{told['wanted']:g}, lower end {told['wanted_low']:g}: {'met' if met else 'MISSED'}"
    with (FOLDER / f"{name}_curve.csv").open() as curve:
        last = list(csv.DictReader(curve))[-1]
    cost = f"{int(last['agent_steps']):,}, {float(last['frames']):,.0f}, {float(last['hours']):.1f}"
    line = (
        f"| {name} | **{estimate.point:.2f}** [{estimate.low:.2f}, {estimate.high:.2f}] "
        f"| {wanted} | {random:.2f} | {policy.spec.rule} | {cost} "
        f"| {size:,}{'' if size <= MOST_BYTES else ' MISSED'} | {policy.spec.parameters:,} |"
    )
    record: Record = {"mean": estimate.point, "ci95": [estimate.low, estimate.high], "scores": list(scores)}
    return line, record | {
        "bytes": size,
        "hash": policy.spec.hash,
        "environment": environment.id,
        "random": random,
    }


def ship(name: str, run: Path, told: Record) -> None:
    """Write a policy in half precision, the better of those that a run left by the better rule, and the run's curve."""
    means: dict[tuple[str, str], float] = {}
    halves: dict[str, Policy] = {}
    for which, file in {"last": POLICY, "best": Path("best.safetensors")}.items():
        if (run / file).exists():
            trained = load_policy(run / file)
            # Training may have taken a lost life for an end; the policy is stored with where it is scored.
            spec = replace(trained.spec, name=name, environment=recipe.load(told["environment"], Environment))
            halves[which] = Policy(trained.network, spec).half()
            for rule in RULES[spec.kind]:
                played = play(halves[which], episodes=CHOICE_EPISODES, rule=parse_rule(rule), first_seed=CHOICE_SEED)
                means[which, rule] = played.evaluation.mean
    print(f"{name}: {means}", file=sys.stderr)
    which, rule = max(means, key=lambda pair: means[pair])
    half = halves[which]
    Policy(half.network, replace(half.spec, rule=parse_rule(rule))).save(SHIPPED / f"{name}.safetensors")
    metrics = [line for line in read_metrics(run) if "rollout/ep_rew_mean" in line]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["agent_steps", "frames", "hours", "mean_of_last_100_episodes"])
    for line in thinned(metrics, CURVE_POINTS):
        figures = (line["time/frames"], line["time/hours"], line["rollout/ep_rew_mean"])
        writer.writerow([line["step"], *(f"{figure:.8g}" for figure in figures)])
    write_bytes(FOLDER / f"{name}_curve.csv", text.getvalue().encode())


if __name__ == "__main__":
    end_with(main)
