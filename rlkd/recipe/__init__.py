"""Recipes: TOML files under `agents/` and `envs/` as frozen, checked, hashable values."""

from rlkd.recipe.bonus import Bonus
from rlkd.recipe.distill import Distill, Search, Source
from rlkd.recipe.environment import EVALUATION_SEEDS, Emulator, Environment, Protocol, View
from rlkd.recipe.find import Recipe, Shipped, data_root, dump, load, load_any, resolve, resolve_anywhere, shipped
from rlkd.recipe.generations import ARMS, Arm, Generations
from rlkd.recipe.imports import Import, Layout, Score, Statistics, Tensor
from rlkd.recipe.learn import Dqn, Ppo, Sb3, Stream
from rlkd.recipe.network import MAX_MEMBERS, Combine, Network
from rlkd.recipe.part import Part, Value
from rlkd.recipe.read import build, check_request, convert, recipe_hash, suggest, to_table
from rlkd.recipe.scale import Scale, interpolated, network_label, scaled, split_scale
from rlkd.recipe.schedule import Points, ended, value_at
from rlkd.recipe.tasks import Sampling, Tasks
from rlkd.recipe.term import Term

__all__ = [
    "ARMS",
    "EVALUATION_SEEDS",
    "MAX_MEMBERS",
    "Arm",
    "Bonus",
    "Combine",
    "Distill",
    "Dqn",
    "Emulator",
    "Environment",
    "Generations",
    "Import",
    "Layout",
    "Network",
    "Part",
    "Points",
    "Ppo",
    "Protocol",
    "Recipe",
    "Sampling",
    "Sb3",
    "Scale",
    "Score",
    "Search",
    "Shipped",
    "Source",
    "Statistics",
    "Stream",
    "Tasks",
    "Tensor",
    "Term",
    "Value",
    "View",
    "build",
    "check_request",
    "convert",
    "data_root",
    "dump",
    "ended",
    "interpolated",
    "load",
    "load_any",
    "network_label",
    "recipe_hash",
    "resolve",
    "resolve_anywhere",
    "scaled",
    "shipped",
    "split_scale",
    "suggest",
    "to_table",
    "value_at",
]
