"""Profiles hold settings of machines, never science, and Snakemake understands them."""

from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
NAMES = ["default", "gpu", "slurm"]


def settings(name):
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


def test_these_are_all_the_profiles():
    assert sorted(path.name for path in PROFILES.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_an_option_of_snakemake_and_none_is_science(name):
    options = {text.removeprefix("--") for action in get_argument_parser()._actions for text in action.option_strings}
    assert settings(name).keys() <= options
    # Snakemake drops a profile's config as soon as the user gives any: results would depend on the machine.
    assert settings(name).keys().isdisjoint({"config", "configfile", "configfiles"})


@pytest.mark.parametrize("name", ["gpu", "slurm"])
def test_every_profile_behaves_after_crashes_and_failures_as_the_default_one(name):
    shared = {key: value for key, value in settings("default").items() if key != "cores"}
    assert {key: settings(name).get(key) for key in shared} == shared
