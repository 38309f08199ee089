"""Recipes: TOML files under `agents/` and `envs/` as frozen, checked, hashable values."""

from rlkd.recipe.distill import Distill, Generations, Source, Term
from rlkd.recipe.environment import EVALUATION_SEEDS, Emulator, Environment, Protocol, View
from rlkd.recipe.find import Recipe, Shipped, data_root, dump, load, load_any, resolve, resolve_anywhere, shipped
from rlkd.recipe.imports import Import, Layout, Score, Statistics, Tensor
from rlkd.recipe.learn import Dqn, Ppo, Sb3, Stream
from rlkd.recipe.network import Network
from rlkd.recipe.read import build, check_request, recipe_hash, to_table

__all__ = [
    "EVALUATION_SEEDS",
    "Distill",
    "Dqn",
    "Emulator",
    "Environment",
    "Generations",
    "Import",
    "Layout",
    "Network",
    "Ppo",
    "Protocol",
    "Recipe",
    "Sb3",
    "Score",
    "Shipped",
    "Source",
    "Statistics",
    "Stream",
    "Tensor",
    "Term",
    "View",
    "build",
    "check_request",
    "data_root",
    "dump",
    "load",
    "load_any",
    "recipe_hash",
    "resolve",
    "resolve_anywhere",
    "shipped",
    "to_table",
]
