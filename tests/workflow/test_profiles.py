"""Profiles hold settings of machines, never science, and Snakemake understands them."""

import pytest
from snakemake.cli import get_argument_parser

from tests.fixtures.profiles import PROFILES, settings

NAMES = ["default", "gpu", "slurm"]


def test_these_are_all_the_profiles():
    assert sorted(path.name for path in PROFILES.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_an_option_of_snakemake_and_none_is_science(name):
    options = {text.removeprefix("--") for action in get_argument_parser()._actions for text in action.option_strings}
    # Options of an executor's plugin are known where the plugin is installed.
    of_plugin = {key for key in settings(name) if key.startswith(f"{settings(name).get('executor')}-")}
    assert settings(name).keys() - of_plugin <= options
    # Snakemake drops a profile's config as soon as the user gives any: results would depend on the machine.
    assert settings(name).keys().isdisjoint({"config", "configfile", "configfiles"})


@pytest.mark.parametrize("name", ["gpu", "slurm"])
def test_every_profile_behaves_after_crashes_and_failures_as_the_default_one(name):
    shared = {key: value for key, value in settings("default").items() if key != "cores"}
    assert {key: settings(name).get(key) for key in shared} == shared


def test_the_slurm_profile_asks_for_gpus_and_groups_only_where_told():
    assert "groups" not in settings("slurm")
    assert {request.get("gpu", 0) for request in settings("slurm")["set-resources"].values()} == {0}
    assert settings("slurm", RUN_GPUS="2")["set-resources"]["run"]["gpu"] == 2
    together = settings("slurm", RUN_GPUS="1", RUN_TOGETHER="4", RUN_MINUTES="10", RUN_MB="4000")
    assert together["groups"] == {"run": "runs_{task}"}
    assert together["resources"] == {"processes": 4, "gpu": 1}
    assert together["set-resource-scopes"].keys() >= together["resources"].keys()
    assert together["set-resources"]["run"] == {"gpu": 1, "mem_mb": 4000, "runtime": 10}
