"""The rows: technique, claim, how a seed is measured, how the seeds are judged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.techniques import probes, verdicts
from benchmarks.techniques.arms import ACROBOT, PONG_DQN
from benchmarks.techniques.bench import Bench, Numbers
from benchmarks.techniques.verdicts import Finding, Limits, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One claim."""

    name: str
    """Of the row, here and in thresholds.toml."""
    technique: str
    """What is checked, and on what."""
    paper: str
    """Who says so."""
    claim: str
    """In one sentence; names in braces are limits of thresholds.toml."""
    measure: Callable[[Bench, int], Numbers] | None
    """From a seed to numbers by name; None where it costs more than two core-hours."""
    judge: Callable[[Records, Limits], Finding] | None
    """From all seeds' numbers to a verdict."""
    arms: tuple[str, ...] = ()
    """Whose scores and likeness stand in the second table."""
    seeds: int | None = None
    """None: as many as were asked for."""
    needs: str = ""
    """A shipped policy, or a file below RLKD_TEACHERS, without which the row cannot be run."""


def scores(**arms: str) -> Callable[[Bench, int], Numbers]:
    """Measures the normalised scores of these arms."""
    return lambda bench, seed: probes.normalised(bench, seed, arms)


PONG_CONTROLS = {"hard_labels": "plain/hard_labels", "shuffled_teacher": "plain/shuffled_teacher"}

ROWS = (
    Row(
        name="missing_action",
        technique="Soft answers, Pong without RIGHT",
        paper="Hinton et al. 2015, arXiv:1503.02531",
        claim="an action that no state of learning had as best is chosen where it is best in >= {soft_at_least:.0%} of "
        "held-out states after soft answers, in <= {hard_at_most:.0%} after hard labels",
        measure=probes.missing_action,
        judge=verdicts.missing_action,
        arms=("missing_soft", "missing_hard"),
    ),
    Row(
        name="soft_answers",
        technique="Soft answers, Pong, a student of 16,000 parameters",
        paper="Hinton et al. 2015, arXiv:1503.02531",
        claim="a small student of soft answers scores more than one of hard labels",
        measure=scores(soft="small", hard_labels="small/hard_labels", shuffled_teacher="small/shuffled_teacher"),
        judge=partial(verdicts.more, ours="soft", theirs="hard labels"),
        arms=("small",),
    ),
    Row(
        name="air",
        technique="AIR, Pong with 40 % of labels wrong",
        paper="Dong et al. 2019, arXiv:1910.01255",
        claim="held-out agreement is higher by >= {gain_at_least:.2f}; wrong labels memorised: <= "
        "{memorised_at_most:.0%}, without it >= {memorised_without_at_least:.0%}",
        measure=probes.noisy_labels,
        judge=verdicts.wrong_labels,
        arms=("noisy_air", "noisy_plain"),
    ),
    Row(
        name="calibrate",
        technique="Calibrated teacher, Pong, Q-values",
        paper="Menon et al. 2020, arXiv:2005.10419",
        claim="a fitted temperature lowers the NLL of what the teacher does, and its student's KL from that on the "
        "student's own states, against temperature 0.01",
        measure=probes.calibration,
        judge=verdicts.calibrated,
        arms=("dqn_calibrated", "dqn_kl"),
        needs=PONG_DQN,
    ),
    Row(
        name="top_k",
        technique="KD-topk, Pong, three of six answers",
        paper="Tang et al. 2021, arXiv:2002.03532",
        claim="the three best answers lose <= {loss_at_most:.2f} of the score, within the interval",
        measure=scores(top_k="top_k", whole_answers="plain", **PONG_CONTROLS),
        judge=partial(verdicts.kept, ours="top k", theirs="whole answers", beside=("hard labels",)),
        arms=("plain", "top_k"),
    ),
    Row(
        name="similar_actions",
        technique="KD-sim, two Pong teachers",
        paper="Tang et al. 2021, arXiv:2002.03532",
        claim="last weights of actions that do the same (RIGHT and RIGHTFIRE, LEFT and LEFTFIRE, NOOP and FIRE) are "
        "more alike than those of any other pair",
        measure=probes.head_rows,
        judge=verdicts.similar_actions,
        seeds=1,
        needs=PONG_DQN,
    ),
    Row(
        name="confidence",
        technique="KD-pt, Pong",
        paper="Tang et al. 2021, arXiv:2002.03532",
        claim="how sure the teacher is of its best action is worth something: more than hard labels",
        measure=scores(confidence_alone="confidence", whole_answers="plain", **PONG_CONTROLS),
        judge=partial(verdicts.more, ours="confidence alone", theirs="hard labels", beside=("whole answers",)),
        arms=("confidence",),
    ),
    Row(
        name="permuted",
        technique="DKPP, Pong",
        paper="Furlanello et al. 2018, arXiv:1805.04770",
        claim="answers whose other actions are permuted still teach more than hard labels",
        measure=scores(permuted="permuted", whole_answers="plain", **PONG_CONTROLS),
        judge=partial(verdicts.more, ours="permuted", theirs="hard labels", beside=("whole answers",)),
        arms=("permuted",),
    ),
    Row(
        name="smoothed_teacher",
        technique="Smoothed answers, Pong",
        paper="Mueller et al. 2019, arXiv:1906.02629",
        claim="students of smoothed answers score less than those of plain ones",
        measure=scores(plain="plain", smoothed="smoothed", **PONG_CONTROLS),
        judge=partial(verdicts.more, ours="plain", theirs="smoothed", beside=("hard labels",)),
        arms=("smoothed",),
    ),
    Row(
        name="pseudo_label",
        technique="Pseudo-Label, Pong, 1,000 of 40,000 states asked",
        paper="Lee 2013",
        claim="held-out agreement is higher than after the asked states alone",
        measure=probes.asked_states,
        judge=partial(verdicts.more, ours="pseudo-labels", theirs="asked alone"),
        arms=("pseudo_label",),
    ),
    Row(
        name="policy_distillation_pong",
        technique="Policy Distillation, Pong, Q-values",
        paper="Rusu et al. 2016, arXiv:1511.06295",
        claim="score of KL >= NLL >= MSE, and KL above MSE outside the interval",
        measure=scores(
            KL="dqn_kl", NLL="dqn_kl/hard_labels", MSE="dqn_mse", shuffled_teacher="dqn_kl/shuffled_teacher"
        ),
        judge=partial(verdicts.ordered, names=("KL", "NLL", "MSE")),
        arms=("dqn_kl", "dqn_mse"),
        needs=PONG_DQN,
    ),
    Row(
        name="policy_distillation_breakout",
        technique="Policy Distillation, Breakout, logits",
        paper="Rusu et al. 2016, arXiv:1511.06295",
        claim="score of KL >= NLL >= MSE, and KL above MSE outside the interval",
        measure=scores(
            KL="breakout_kl",
            NLL="breakout_kl/hard_labels",
            MSE="breakout_mse",
            shuffled_teacher="breakout_shuffled/shuffled_teacher",
        ),
        judge=partial(verdicts.ordered, names=("KL", "NLL", "MSE")),
        arms=("breakout_kl", "breakout_mse", "breakout_shuffled"),
    ),
    Row(
        name="dagger",
        technique="DAgger, Pong, 8,000 states",
        paper="Ross et al. 2011, arXiv:1011.0686",
        claim="with few states DAgger scores more than behaviour cloning (here what the greedy teacher did)",
        measure=scores(
            DAgger="few_dagger",
            behaviour_cloning="few_soft/hard_labels",
            teacher_driven="few_soft",
            shuffled_teacher="few_soft/shuffled_teacher",
        ),
        judge=partial(verdicts.more, ours="DAgger", theirs="behaviour cloning", beside=("teacher driven",)),
        arms=("few_dagger", "few_soft"),
    ),
    Row(
        name="student_driven",
        technique="Student-driven distillation, Pong",
        paper="Czarnecki et al. 2019, arXiv:1902.02186",
        claim="on its own states a student that visited them in learning has a lower KL than one that "
        "learnt on the teacher's",
        measure=probes.own_states,
        judge=partial(verdicts.less, ours="student-driven", theirs="teacher-driven"),
        arms=("student_driven",),
    ),
    Row(
        name="kickstarting",
        technique="Kickstarting, Pong, 131,072 steps",
        paper="Schmitt et al. 2018, arXiv:1803.03835",
        claim="a head start: it scores more than PPO alone after twice the steps",
        measure=scores(kickstarting="kickstarting", PPO_after_twice_the_steps="ppo"),
        judge=partial(verdicts.more, ours="kickstarting", theirs="PPO after twice the steps"),
        arms=("kickstarting", "ppo"),
    ),
    Row(
        name="ippd",
        technique="IPPD's weight, Pong",
        paper="research code of IPPD",
        claim="KL is lower on the quarter of states where the choice matters most, and on all at most "
        "{mean_ratio_at_most:g} times as high",
        measure=probes.critical_states,
        judge=verdicts.critical_states,
        arms=("ippd",),
    ),
    Row(
        name="early_stopped",
        technique="Early-stopped distillation, Pong, a student of 16,000 parameters",
        paper="Cho and Hariharan 2019, arXiv:1910.01348",
        claim="a student too small for its teacher scores more where distillation stops at 60 %",
        measure=scores(
            stopped="small_stopped",
            to_the_end="small",
            hard_labels="small/hard_labels",
            shuffled_teacher="small/shuffled_teacher",
        ),
        judge=partial(verdicts.more, ours="stopped", theirs="to the end", beside=("hard labels",)),
        arms=("small_stopped",),
    ),
    Row(
        name="munge",
        technique="MUNGE, Acrobot, 500 visited and 10,000 made-up states",
        paper="Bucila et al. 2006",
        claim="held-out KL is below that of the visited states alone and of a uniform box in >= "
        "{share_of_seeds_at_least:.0%} of ten seeds",
        measure=probes.made_up_states,
        judge=partial(verdicts.beats_in_seeds, ours="MUNGE", others=("real states alone", "uniform box")),
        arms=("munge", "real_only", "uniform_box"),
        seeds=10,
        needs=ACROBOT,
    ),
    Row(
        name="sampled_labels",
        technique="Sampled labels against whole answers, tables",
        paper="Menon et al. 2020, arXiv:2005.10419",
        claim="excess KL of N sampled labels is (A - 1) / 2N to {off_by_at_most:.0%}, of whole answers <= "
        "{soft_at_most:g}",
        measure=probes.tabular,
        judge=verdicts.expected_excess,
        seeds=10,
    ),
    Row(
        name="qdagger",
        technique="QDagger, Pong",
        paper="Agarwal et al. 2022, arXiv:2206.01626",
        claim="a value learner that begins with its teacher passes it",
        measure=None,
        judge=None,
    ),
    Row(
        name="early_stopped_teacher",
        technique="Early-stopped teacher, Pong",
        paper="Cho and Hariharan 2019, arXiv:1910.01348",
        claim="an earlier checkpoint teaches better than the final one",
        measure=None,
        judge=None,
    ),
    Row(
        name="kickstarting_to_the_end",
        technique="Kickstarting, Pong, to the teacher's score",
        paper="Schmitt et al. 2018, arXiv:1803.03835",
        claim="TN 0.9 in half the steps of PPO alone",
        measure=None,
        judge=None,
    ),
    Row(
        name="ppd",
        technique="Proximal policy distillation, Pong, a spoilt teacher",
        paper="Spigler 2024, arXiv:2407.15134",
        claim="bears a spoilt teacher: scores more than distillation on the student's own states",
        measure=None,
        judge=None,
    ),
    Row(
        name="bam",
        technique="BAM's teacher annealing, Pong",
        paper="Clark et al. 2019, arXiv:1907.04829",
        claim="annealed from teacher to rewards, a student scores more than without annealing",
        measure=None,
        judge=None,
    ),
)
